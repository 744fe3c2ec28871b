"""Load tests of a server, as `gradwire bench` runs them: plans and reports are plain data.

Clients call one operation or a mix, as fast as they are answered or at a fixed rate, and every latency is kept. They run in
processes of their own, because Python's threads share one interpreter: many threads in one process would measure that process
and not the server.

    report = run_load(plan(Target("127.0.0.1:50051", "digits"), ["predict"], rows=[1, 32], concurrency=[4], processes=2))
"""

from gradwire.client.load.plan import Load, Target, plan
from gradwire.client.load.report import Figures, Report, as_json
from gradwire.client.load.run import Progress, run_load
from gradwire.client.load.tally import Failure

__all__ = ["Failure", "Figures", "Load", "Progress", "Report", "Target", "as_json", "plan", "run_load"]
