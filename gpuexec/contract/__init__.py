"""The contract between stages, pipelines and executors: the API of NeMo Curator 1.4, written anew.

It imports neither NVML nor anything that starts a process, and works without NeMo Curator and Ray. Where
behaviour differs from NeMo Curator's, docs/adr/0003 says why.
"""
