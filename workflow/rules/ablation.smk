# One target per file in workflow/config/ablations: ablation_<study>, in the suite that is chosen.
for STUDY, SPEC in LAYOUT.studies().items():

    rule:
        name:
            f"ablation_{STUDY}"
        input:
            records=[
                f"{run}/record.json" for run in LAYOUT.study_dirs(LAYOUT.chosen, SPEC)
            ],
            study=f"workflow/config/ablations/{STUDY}.yaml",
            published="results/published_ablations.csv",
        output:
            f"{LAYOUT.results}/{LAYOUT.chosen}/ablation_{STUDY}/table.md",
            report(
                f"{LAYOUT.results}/{LAYOUT.chosen}/ablation_{STUDY}/table.html",
                caption="../report/ablation.rst",
                category="Ablations",
            ),
        log:
            f"{LAYOUT.results}/{LAYOUT.chosen}/logs/ablation_{STUDY}.log",
        localrule: True
        conda:
            "../../environment.yml"
        params:
            out=lambda wildcards, output: parent(output[0]),
        shell:
            "solo table --study {input.study:q} --records {input.records:q} --published {input.published:q} "
            "--out-dir {params.out:q} --log {log:q}"
