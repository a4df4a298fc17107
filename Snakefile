# The SOLO model zoo, from data to table. `snakemake --cores all` makes the table of the smoke suite on this machine;
# `snakemake --profile slurm` the full zoo on a cluster. Settings: workflow/config/config.yaml.
from snakemake.utils import min_version, validate

min_version("9.14")


configfile: "workflow/config/config.yaml"


validate(config, "workflow/schemas/config.schema.json")


include: "workflow/rules/common.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/ablation.smk"


