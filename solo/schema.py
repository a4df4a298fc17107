"""The JSON schema of workflow/config/config.yaml, generated from its model.

python -m solo.schema > workflow/schemas/config.schema.json
"""

import json

from solo.layout import WorkflowConfig


def schema() -> str:
    """The schema that Snakemake's `validate` checks the configuration against."""
    value = {"$schema": "https://json-schema.org/draft/2020-12/schema", **WorkflowConfig.model_json_schema()}
    return json.dumps(value, indent=2) + "\n"


if __name__ == "__main__":
    print(schema(), end="")
