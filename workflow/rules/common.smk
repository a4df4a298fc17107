# Names and paths that the rules share; what there is to run is decided in solo/layout.py, not here.
from solo.layout import Layout, parent, use_this_python
from solo.version import code_version

use_this_python()
LAYOUT = Layout(config, workflow.basedir)
RUN = f"{LAYOUT.results}/{{suite}}/{{run}}/seed{{seed}}"


wildcard_constraints:
    suite="|".join(LAYOUT.suites),
    run="[a-z0-9_]+(--[0-9a-f]{8})?",
    seed="[0-9]+",
