# From a run's files to the table, the report and MLflow.
localrules:
    record,
    track,
    make_table,
    make_report,
    make_plan,


rule record:
    input:
        config=f"{RUN}/config.yaml",
        metrics=f"{RUN}/metrics.json",
        speed=f"{RUN}/speed.json",
        overlays=f"{RUN}/overlays",
        data=f"{LAYOUT.results}/{{suite}}/data.json",
    output:
        f"{RUN}/record.json",
    log:
        f"{RUN}/logs/record.log",
    conda:
        "../../environment.yml"
    params:
        run=lambda wildcards, output: parent(output[0]),
        accounting=".snakemake/submitit/accounting.jsonl",  # there where the executor has run jobs
    shell:
        "solo record --run {params.run:q} --data {input.data:q} --accounting {params.accounting:q} --out {output:q} "
        "--log {log:q}"


rule track:
    input:
        lambda wildcards: LAYOUT.records(wildcards.suite),
    output:
        touch(f"{LAYOUT.results}/{{suite}}/tracked"),
    log:
        f"{LAYOUT.results}/{{suite}}/logs/track.log",
    conda:
        "../../environment.yml"
    params:
        runs=lambda wildcards: LAYOUT.run_dirs(wildcards.suite),
    shell:
        "solo track {params.runs:q} --log {log:q}"


rule make_table:
    input:
        records=lambda wildcards: LAYOUT.records(wildcards.suite),
        published="results/published.csv",
    output:
        report(
            f"{LAYOUT.results}/{{suite}}/table.html",
            caption="../report/table.rst",
            category="Results",
        ),
        f"{LAYOUT.results}/{{suite}}/table.md",
        f"{LAYOUT.results}/{{suite}}/table.csv",
    log:
        f"{LAYOUT.results}/{{suite}}/logs/table.log",
    conda:
        "../../environment.yml"
    params:
        out=lambda wildcards, output: parent(output[0]),
    shell:
        "solo table --records {input.records:q} --published {input.published:q} --out-dir {params.out:q} --log {log:q}"


rule make_report:
    input:
        records=lambda wildcards: LAYOUT.records(wildcards.suite),
        published="results/published.csv",
        table=f"{LAYOUT.results}/{{suite}}/table.md",
        tracked=f"{LAYOUT.results}/{{suite}}/tracked",
    output:
        report(
            f"{LAYOUT.results}/{{suite}}/report.html",
            caption="../report/report.rst",
            category="Results",
        ),
    log:
        f"{LAYOUT.results}/{{suite}}/logs/report.log",
    conda:
        "../../environment.yml"
    params:
        tables=lambda wildcards, input: parent(input.table),
    shell:
        "solo report --records {input.records:q} --published {input.published:q} --table-dir {params.tables:q} "
        "--out {output:q} --log {log:q}"


rule make_plan:
    input:
        lambda wildcards: [
            f"{run}/config.yaml" for run in LAYOUT.run_dirs(wildcards.suite)
        ],
    output:
        f"{LAYOUT.results}/{{suite}}/plan.md",
    log:
        f"{LAYOUT.results}/{{suite}}/logs/plan.log",
    conda:
        "../../environment.yml"
    shell:
        "solo plan --configs {input:q} --out {output:q} --log {log:q}"
