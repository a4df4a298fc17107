# From configuration to model.pth. A training starts again when the digest of its configuration, its data or the code of
# the model changes, not when a file is touched: `digest` and `code` are parameters, and config.yaml counts as ancient.
localrules:
    config,


PUBLISHED = "|".join(name for name in LAYOUT.suites if LAYOUT.is_published(name))
TRAINED = "|".join(name for name in LAYOUT.suites if not LAYOUT.is_published(name))


rule config:
    input:
        model=lambda wildcards: LAYOUT.model_file(wildcards.run),
        suite=lambda wildcards: LAYOUT.files[wildcards.suite],
    output:
        f"{RUN}/config.yaml",
    log:
        f"{RUN}/logs/config.log",
    conda:
        "../../environment.yml"
    params:
        setting=lambda wildcards: LAYOUT.setting_arguments(
            wildcards.suite, wildcards.run
        ),
    shell:
        "solo config --model {input.model:q} --suite {input.suite:q} --seed {wildcards.seed} "
        "--setting {params.setting:q} --out {output:q} --log {log:q}"


rule train:
    input:
        config=ancient(f"{RUN}/config.yaml"),
        data=f"{LAYOUT.results}/{{suite}}/data.json",
        weights=lambda wildcards: ancient(
            LAYOUT.weights(wildcards.suite, wildcards.run)
        ),
    output:
        model=f"{RUN}/model.pth",
        summary=f"{RUN}/train.json",
        metrics=f"{RUN}/metrics.jsonl",
    log:
        f"{RUN}/logs/train.log",
    wildcard_constraints:
        suite=TRAINED,
    conda:
        "../../environment.yml"
    threads: lambda wildcards: LAYOUT.suite(wildcards.suite).threads
    resources:
        gpus_per_node=lambda wildcards: LAYOUT.suite(wildcards.suite).gpus,
        mem_mb=lambda wildcards: LAYOUT.suite(wildcards.suite).mem_mb,
        runtime=lambda wildcards: LAYOUT.suite(wildcards.suite).runtime,
    params:
        code=code_version(),
        digest=lambda wildcards: LAYOUT.digest(wildcards.suite, wildcards.run),
        data=lambda wildcards: LAYOUT.data(wildcards.suite),
        out=lambda wildcards, output: parent(output[0]),
        weights=f"{LAYOUT.config.downloads}/weights",
        device=LAYOUT.config.device,
    shell:
        "solo train --config {input.config:q} --data {params.data:q} --out {params.out:q} "
        "--weights {params.weights:q} --device {params.device} --threads {threads} --log {log:q}"


rule convert:
    input:
        checkpoint=lambda wildcards: ancient(LAYOUT.checkpoint(wildcards.run)),
        config=ancient(f"{RUN}/config.yaml"),
    output:
        f"{RUN}/model.pth",
    log:
        f"{RUN}/logs/convert.log",
    wildcard_constraints:
        suite=PUBLISHED,
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=30,
    shell:
        "solo convert {input.checkpoint:q} --config {input.config:q} --out {output:q} --log {log:q}"
