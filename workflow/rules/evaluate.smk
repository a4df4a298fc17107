# What a model is worth: predictions, AP, speed and pictures.
localrules:
    evaluate,
    show,


rule predict:
    input:
        model=f"{RUN}/model.pth",
        data=f"{LAYOUT.results}/{{suite}}/data.json",
    output:
        f"{RUN}/predictions.json",
    log:
        f"{RUN}/logs/predict.log",
    conda:
        "../../environment.yml"
    threads: lambda wildcards: LAYOUT.suite(wildcards.suite).threads
    resources:
        gpus_per_node=lambda wildcards: LAYOUT.suite(wildcards.suite).gpus,
        mem_mb=lambda wildcards: LAYOUT.suite(wildcards.suite).mem_mb,
        runtime=120,
    params:
        data=lambda wildcards: LAYOUT.data(wildcards.suite),
        device=LAYOUT.config.device,
    shell:
        "solo predict --model {input.model:q} --data {params.data:q} --split val2017 --out {output:q} "
        "--device {params.device} --threads {threads} --log {log:q}"


rule evaluate:
    input:
        predictions=f"{RUN}/predictions.json",
        annotations=lambda wildcards: ancient(LAYOUT.validation_file(wildcards.suite)),
    output:
        f"{RUN}/metrics.json",
    log:
        f"{RUN}/logs/evaluate.log",
    conda:
        "../../environment.yml"
    shell:
        "solo evaluate --predictions {input.predictions:q} --annotations {input.annotations:q} --out {output:q} "
        "--log {log:q}"


rule benchmark:
    input:
        model=f"{RUN}/model.pth",
        data=f"{LAYOUT.results}/{{suite}}/data.json",
    output:
        f"{RUN}/speed.json",
    log:
        f"{RUN}/logs/benchmark.log",
    conda:
        "../../environment.yml"
    threads: workflow.resource_settings.cores or 8  # alone on the machine: another job's work would be in the figures
    resources:
        gpus_per_node=lambda wildcards: LAYOUT.suite(wildcards.suite).gpus,
        mem_mb=lambda wildcards: LAYOUT.suite(wildcards.suite).mem_mb,
        runtime=60,
    params:
        data=lambda wildcards: LAYOUT.data(wildcards.suite),
        device=LAYOUT.config.device,
        repeats=lambda wildcards: LAYOUT.suite(wildcards.suite).repeats,
    shell:
        "solo benchmark --model {input.model:q} --data {params.data:q} --out {output:q} --device {params.device} "
        "--threads {threads} --repeats {params.repeats} --log {log:q}"


rule show:
    input:
        predictions=f"{RUN}/predictions.json",
        data=f"{LAYOUT.results}/{{suite}}/data.json",
    output:
        directory(f"{RUN}/overlays"),
    log:
        f"{RUN}/logs/show.log",
    conda:
        "../../environment.yml"
    params:
        data=lambda wildcards: LAYOUT.data(wildcards.suite),
    shell:
        "solo show --predictions {input.predictions:q} --data {params.data:q} --split val2017 --out {output:q} "
        "--log {log:q}"
