# Data and downloads: local rules that run before any job is submitted and are skipped when the files are there.
localrules:
    synth,
    fetch_coco,
    fetch_backbone,
    fetch_checkpoint,
    data,


MIRROR = f"--mirror {LAYOUT.config.mirror}" if LAYOUT.config.mirror else ""
DOWNLOADS = LAYOUT.config.downloads


rule synth:
    output:
        train=f"{DOWNLOADS}/synth/annotations/instances_train2017.json",
        val=f"{DOWNLOADS}/synth/annotations/instances_val2017.json",
    log:
        f"{LAYOUT.results}/logs/synth.log",
    conda:
        "../../environment.yml"
    params:
        out=lambda wildcards, output: parent(output[0], 2),
    shell:
        "rm -rf {params.out:q}/annotations && rmdir {params.out:q} 2> /dev/null; "
        "solo synth --out {params.out:q} --log {log:q}"


rule fetch_coco:
    output:
        train=f"{DOWNLOADS}/coco2017/annotations/instances_train2017.json",
        val=f"{DOWNLOADS}/coco2017/annotations/instances_val2017.json",
    log:
        f"{LAYOUT.results}/logs/fetch_coco.log",
    conda:
        "../../environment.yml"
    params:
        out=lambda wildcards, output: parent(output[0], 2),
        mirror=MIRROR,
    shell:
        "solo fetch coco2017 --out {params.out:q} {params.mirror} --log {log:q}"


rule fetch_backbone:
    output:
        f"{DOWNLOADS}/weights/{{name}}-{{digest}}.pth",
    log:
        f"{LAYOUT.results}/logs/fetch_{{name}}-{{digest}}.log",
    conda:
        "../../environment.yml"
    params:
        out=lambda wildcards, output: parent(output[0]),
        mirror=MIRROR,
    shell:
        "solo fetch {wildcards.name} --out {params.out:q} {params.mirror} --log {log:q}"


rule fetch_checkpoint:
    output:
        f"{DOWNLOADS}/checkpoints/{{file}}.pth",
    log:
        f"{LAYOUT.results}/logs/fetch_{{file}}.log",
    conda:
        "../../environment.yml"
    params:
        model=lambda wildcards: LAYOUT.model_of_checkpoint(f"{wildcards.file}.pth"),
        out=lambda wildcards, output: parent(output[0]),
        mirror=MIRROR,
    shell:
        "solo fetch {params.model} --out {params.out:q} {params.mirror} --log {log:q}"


rule data:
    input:
        lambda wildcards: LAYOUT.annotation_files(wildcards.suite),
    output:
        f"{LAYOUT.results}/{{suite}}/data.json",
    log:
        f"{LAYOUT.results}/{{suite}}/logs/data.log",
    conda:
        "../../environment.yml"
    params:
        data=lambda wildcards: LAYOUT.data(wildcards.suite),
        splits=lambda wildcards: LAYOUT.splits(wildcards.suite),
    shell:
        "solo data --data {params.data:q} --splits {params.splits} --out {output:q} --log {log:q}"
