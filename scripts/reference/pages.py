"""The files of docs/ that are made from the code, and the functions that return their text."""

from reference.command_line import command_line_page
from reference.comparison import comparison_page
from reference.curator import curator_page
from reference.doctor import doctor_page
from reference.events import events_page
from reference.grafana import dashboard
from reference.metrics import metrics_page
from reference.options import options_page
from reference.ray import ray_page
from reference.stage_specs import stage_specs_page

PAGES = {
    "cli.md": command_line_page,
    "comparison.md": comparison_page,
    "curator.md": curator_page,
    "options.md": options_page,
    "events.md": events_page,
    "metrics.md": metrics_page,
    "doctor.md": doctor_page,
    "stage-specs.md": stage_specs_page,
    "ray.md": ray_page,
    "grafana/gpuexec.json": dashboard,
}
