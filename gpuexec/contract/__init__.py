"""The contract between stages, pipelines and executors: the API of NeMo Curator 1.4, implemented again.

Nothing here imports NVML or starts a process, and nothing needs NeMo Curator or Ray. ``interfaces`` says what
is asked of stages and tasks of any library. docs/adr/0003 says where behaviour differs from NeMo Curator's.
"""
