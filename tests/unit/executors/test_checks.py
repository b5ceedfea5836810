"""Values of the wrong type are answered by a sentence, before anything starts."""

from __future__ import annotations

import pytest

from gpuexec import InlineExecutor, LocalExecutor, Pipeline, Resources, plan
from gpuexec.errors import GpuexecError
from gpuexec.report.builder import ReportBuilder
from tests.process.stages import Apply, Item, Range, double, items


def stage(**attributes):
    made = Range(1)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def run(*stages, executor=None, **arguments):
    Pipeline("p", stages=list(stages)).run(executor or InlineExecutor(show_progress=False), **arguments)


def with_options(**of_stages):
    return LocalExecutor(stage_options=of_stages, show_progress=False)


def specified(spec):
    return Range(1).with_(ray_stage_spec=spec)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run(stage(resources={"gpus": 1})), "stage 'range': resources must be a Resources object"),
        (lambda: run(stage(resources={"gpus": 1})), "write Resources(gpus=1)"),
        (lambda: run(stage(resources=Resources)), "must be a Resources object"),
        (lambda: run(stage(resources=None)), "must be a Resources object"),
        (lambda: run(stage(name=None)), "stage 0: its name must be text, got None"),
        (lambda: run(stage(batch_size="4")), "batch_size must be a whole number >= 1, got '4'"),
        (lambda: run(stage(runtime_env="pip")), "runtime_env must be a mapping"),
        (lambda: run(stage(runtime_env={"env_vars": ["A=1"]})), "must be a mapping of names to values"),
        (lambda: run(specified({"ray_remote_args": {"runtime_env": 5}})), "runtime_env must be a mapping"),
        (lambda: run(specified({"ray_remote_args": {"runtime_env": {"env_vars": 5}}})), "mapping of names to values"),
        (lambda: run(stage(executor_options=3)), "stage 'range', executor_options: its options must be a mapping"),
        (lambda: run(stage(executor_options={"max_atempts": 3})), "did you mean 'max_attempts'?"),
        (
            lambda: run(stage(), executor=with_options(rnge={"max_attempts": 3})),
            "no stage 'rnge'; did you mean 'range'?",
        ),
        (lambda: run(stage(), executor=with_options(xyz={})), "there is no stage 'xyz'; the stages are 'range'"),
        (lambda: run(Range), "write Range(…), an instance of the class"),
        (lambda: Pipeline("p").add_stage(Range), "write Range(…), an instance of the class"),
        (lambda: Pipeline("p", stages=Range(1)), "put a single stage into a list"),
        (lambda: run(Range(1), executor=LocalExecutor), "got the class LocalExecutor: write LocalExecutor()"),
        (lambda: run(Range(1), executor=items(1)), "tasks are given as initial_tasks=[…]"),
        (lambda: run(Apply(double), initial_tasks=items(1)[0]), "put a single task into a list"),
        (lambda: run(Apply(double), initial_tasks=[Item]), "write Item(…), an instance of the class"),
        (lambda: InlineExecutor().execute(Range(1)), "put a single stage into a list"),
        (lambda: InlineExecutor().execute(Pipeline("p", stages=[Range(1)])), "call its run(executor) instead"),
        (lambda: LocalExecutor().execute([]), "there are no stages to run"),
        (lambda: LocalExecutor().execute_iter([]), "there are no stages to run"),
        (lambda: InlineExecutor().execute([]), "there are no stages to run"),
        (lambda: plan([]), "there are no stages to run"),
        (lambda: LocalExecutor("fast"), "must be a mapping of options"),
        (lambda: InlineExecutor(["fast"]), "must be a mapping of options"),
        (lambda: LocalExecutor(observers=None), "observers must be a list of observers, got None"),
        (lambda: InlineExecutor(observers=ReportBuilder()), "put a single one into a list"),
        (lambda: LocalExecutor(observers=[ReportBuilder]), "observers must have a method on_event"),
        (lambda: LocalExecutor(observers="text"), "observers must have a method on_event"),
    ],
)
def test_a_wrong_type_is_answered_by_a_sentence(call, message):
    with pytest.raises(GpuexecError) as caught:
        call()
    assert message in str(caught.value)


def test_a_stage_class_keeps_its_own_attributes():
    with pytest.raises(GpuexecError):
        run(Range)
    assert Range.is_source_stage is False


def test_an_attribute_that_hides_a_method_is_named():
    class Hiding(Range):
        def __init__(self):
            super().__init__(1)
            self.num_workers = 2

    with pytest.raises(GpuexecError, match="an attribute of that name"):
        Hiding()
