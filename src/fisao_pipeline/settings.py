"""Project settings that Kedro reads: session, hooks and how configuration is merged."""

import os
import warnings

# A library's remark on another, which a user of this project can do nothing about.
warnings.filterwarnings("ignore", message="register_new_resolver", category=UserWarning)

from fisao_pipeline.runs.start_up import StartUpHooks, collect_seldom  # noqa: E402 - before all others

collect_seldom()

from fisao_pipeline.runs.determinism import RuntimeHooks  # noqa: E402
from fisao_pipeline.runs.lineage import LineageHooks  # noqa: E402
from fisao_pipeline.runs.plan_hooks import PlanHooks  # noqa: E402
from fisao_pipeline.runs.preflight import PreflightHooks  # noqa: E402
from fisao_pipeline.runs.run_lock import RunLockHooks  # noqa: E402
from fisao_pipeline.runs.session import InterruptibleSession  # noqa: E402
from fisao_pipeline.tracking.hooks import TrackingHooks  # noqa: E402
from fisao_pipeline.viz.context import PreviewedContext  # noqa: E402

SESSION_CLASS = InterruptibleSession
CONTEXT_CLASS = PreviewedContext

# TrackingHooks is kedro-mlflow's hook with a few things mended, so the one it registers itself must not run as well.
DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow", "kedro-mlflow")  # as its releases have spelled themselves
# Of hooks that want to be first, the last here is: what PreflightHooks refuses has not written so much as a lock.
HOOKS = (
    TrackingHooks(),
    LineageHooks(),
    RunLockHooks(),
    PreflightHooks(),
    PlanHooks(),
    RuntimeHooks(),
    StartUpHooks(),
)

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An environment that changes one parameter keeps that parameter's siblings from base.
    "merge_strategy": {"parameters": "soft", "mlflow": "soft"},
    # OmegaConf's own oc.env works in credentials only; `${env:NAME,default}` works everywhere.
    "custom_resolvers": {"env": lambda name, default=None: os.environ.get(name) or default},
}
