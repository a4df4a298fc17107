# What a person asks for. `table` comes first: it is what `snakemake` makes when nothing is named.
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
