# The SOLO model zoo, from data to table. `snakemake --cores all` makes the table of the smoke suite on this machine;
# `snakemake --profile slurm` the full zoo on a cluster. Settings: workflow/config/config.yaml.
from snakemake.utils import min_version, validate

min_version("9.27")


configfile: "workflow/config/config.yaml"


validate(config, "workflow/schemas/config.schema.json")


include: "workflow/rules/common.smk"


localrules:
    table,
    report,
    plan,
    published,
    zoo,


rule table:
    input:
        f"{LAYOUT.results}/{LAYOUT.chosen}/table.md",
        f"{LAYOUT.results}/{LAYOUT.chosen}/report.html",


rule report:
    input:
        f"{LAYOUT.results}/{LAYOUT.chosen}/report.html",


rule plan:
    input:
        f"{LAYOUT.results}/{LAYOUT.chosen}/plan.md",


rule published:
    input:
        f"{LAYOUT.results}/published/table.md",
        f"{LAYOUT.results}/published/report.html",


rule zoo:
    input:
        f"{LAYOUT.results}/zoo/table.md",
        f"{LAYOUT.results}/zoo/report.html",


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/ablation.smk"
