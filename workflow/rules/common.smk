# Names and paths that the rules share; what there is to run is decided in solo/plan_runs.py, not here.
import os
import sys

from solo.layout import Layout
from solo.version import code_version

os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])

LAYOUT = Layout(config, workflow.basedir)
RUN = LAYOUT.results + "/{suite}/{run}/seed{seed}"


wildcard_constraints:
    suite="|".join(LAYOUT.suites),
    run="[a-z0-9_]+(--[0-9a-f]{8})?",
    seed="[0-9]+",
