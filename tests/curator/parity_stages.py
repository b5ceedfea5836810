"""What the parity pipelines need of their own: what Curator's download stages and its clients for images ask for."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_curator.stages.synthetic.omni.base import ModelProcessingStage
from nemo_curator.stages.text.download import DocumentDownloader, DocumentExtractor, DocumentIterator, URLGenerator


class Urls(URLGenerator):
    def __init__(self, urls: list[str]) -> None:
        self.urls = urls

    def generate_urls(self) -> list[str]:
        return self.urls


class Fetches(DocumentDownloader):
    def _get_output_filename(self, url: str) -> str:
        return url.rpartition("/")[2]

    def _download_to_path(self, url: str, path: str) -> tuple[bool, str | None]:
        with urllib.request.urlopen(url) as response:
            Path(path).write_bytes(response.read())
        return True, None


class Lines(DocumentIterator):
    def iterate(self, file_path: str) -> Iterator[dict[str, Any]]:
        yield from map(json.loads, Path(file_path).read_text().splitlines())

    def output_columns(self) -> list[str]:
        return ["text", "url", "n"]


class Words(DocumentExtractor):
    def extract(self, record: dict[str, Any]) -> dict[str, Any] | None:
        words = record["text"].split()
        return {"url": record["url"], "words": len(words)} if len(words) > 1 else None

    def input_columns(self) -> list[str]:
        return ["text", "url", "n"]

    def output_columns(self) -> list[str]:
        return ["url", "words"]


class Describes(ModelProcessingStage):
    name = "describes"

    @classmethod
    def at(cls, server: str) -> Describes:
        from nemo_curator.models.client.openai_client import AsyncOpenAIClient
        from nemo_curator.stages.resources import Resources

        stage = cls(AsyncOpenAIClient(base_url=f"{server}/v1", api_key="none", max_retries=1), "m")
        stage.resources = Resources(cpus=1)
        return stage

    def build_prompt(self, task: Any) -> str:
        return f"describe {task.data.image_id}"

    def handle_response(self, task: Any, response: str) -> Any:
        task.data.error = response
        return task
