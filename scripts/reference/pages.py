"""The files of docs/ that are made from the code, and the functions that return their text."""

from reference.doctor import doctor_page
from reference.events import events_page
from reference.grafana import dashboard
from reference.metrics import metrics_page
from reference.options import options_page
from reference.ray import ray_page

PAGES = {
    "options.md": options_page,
    "events.md": events_page,
    "metrics.md": metrics_page,
    "doctor.md": doctor_page,
    "ray.md": ray_page,
    "grafana/gpuexec.json": dashboard,
}
