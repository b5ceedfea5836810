"""Pipelines of NeMo Curator's own stages on tiny inputs, for both executors: no GPU, no model, no network.

Each function of ``PIPELINES`` returns the stages and the initial tasks. ``Place``: where inputs are and outputs go.
"""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess
import sys
import tarfile
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nemo_curator.tasks import AudioTask, DocumentBatch, FileGroupTask

Parts = tuple[list[Any], list[Any] | None]
TEXTS = (
    "The cat sat on the mat. " * 4,
    "Short.",
    "A page with https://example.org/page and numbers 1 2 3 in it, and some more words to read on. " * 2,
    "\u201cQuoted\u201d text \u2013 with dashes\u2026 and <b>markup</b>, twice over for good measure. " * 3,
)


@dataclass(frozen=True)
class Place:
    inputs: Path
    outputs: Path
    server: str


def empty_place(folder: Path, name: str, server: str) -> Place:
    """Return where a pipeline runs, without outputs. It is the same for all executors, since ids are made of paths."""
    at = Place(folder / "in", folder / "out" / name, server)
    shutil.rmtree(at.outputs, ignore_errors=True)
    at.outputs.mkdir(parents=True)
    return at


def write_inputs(folder: Path) -> None:
    """Write the files that the pipelines read."""
    for name in ("jsonl", "parquet", "audio", "interleaved", "clusters/centroid=0", "removal"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(3):
        rows = [
            {"text": f"{text}{number}", "url": f"https://h/{number}/{row}", "n": row} for row, text in enumerate(TEXTS)
        ]
        (folder / "jsonl" / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        pd.DataFrame(rows).to_parquet(folder / "parquet" / f"{number}.parquet")
    for number in range(3):
        _write_wave(folder / "audio" / f"{number}.wav", seconds=1 + number)
    manifest = [
        {"audio_filepath": str(folder / "audio" / f"{number}.wav"), "text": TEXTS[number]} for number in range(3)
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in manifest))
    (folder / "rules.yaml").write_text("- {pattern: 'cat', repl: 'dog'}\n- {pattern: '[0-9]+', repl: '#', count: 1}\n")
    (folder / "phrases.txt").write_text("thank you for watching 10\nsubtitles by 3\n")
    chance = np.random.default_rng(7)
    for centroid in range(1):  # the last stage makes one file of a batch, whatever its size
        vectors = chance.normal(size=(6, 4)).astype(np.float32)
        vectors[3] = vectors[2]
        frame = pd.DataFrame(
            {"id": range(centroid * 6, centroid * 6 + 6), "cosine_sim_score": [0.1, 0.2, 0.99, 1, 0, 0.3]}
        )
        frame["embeddings"] = list(vectors)
        frame.to_parquet(folder / f"clusters/centroid={centroid}/part.parquet")
    pd.DataFrame({"id": ["p_1", "p_5"]}).to_parquet(folder / "removal/part.parquet")
    _write_interleaved(folder / "interleaved/0.tar")


def _write_wave(path: Path, seconds: int, rate: int = 16_000) -> None:
    samples = (np.sin(np.arange(seconds * rate) * 2 * math.pi * 440 / rate) * 20_000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(samples, 2).tobytes())


def _png(width: int, height: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def _write_interleaved(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(2):
            sample = {
                "texts": [f"before {number}", None],
                "images": [None, f"{number}.png"],
                "url": f"https://h/{number}",
            }
            for name, content in (
                (f"{number}.json", json.dumps(sample).encode()),
                (f"{number}.png", _png(30 + 40 * number, 20)),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def read_jsonl(at: Place, **options: Any) -> Any:
    from nemo_curator.stages.text.io.reader import JsonlReader

    return JsonlReader(str(at.inputs / "jsonl"), files_per_partition=1, **options)


def documents(*rows: dict[str, Any]) -> DocumentBatch:
    return DocumentBatch(dataset_name="d", data=pd.DataFrame(list(rows)))


def filters(at: Place) -> Parts:
    from nemo_curator.stages.text.filters import Filter, Score, ScoreFilter
    from nemo_curator.stages.text.filters.heuristic import NonAlphaNumericFilter, UrlsFilter, WordCountFilter
    from nemo_curator.stages.text.io.writer import ParquetWriter

    return [
        read_jsonl(at),
        Score(score_fn=WordCountFilter(min_words=2), score_field="words"),
        Filter(filter_fn=lambda words: words > 3, filter_field="words"),
        ScoreFilter(filter_obj=[UrlsFilter(), NonAlphaNumericFilter()], score_field=["urls", "symbols"]),
        ParquetWriter(str(at.outputs / "filtered")),
    ], None


def modifiers(at: Place) -> Parts:
    from nemo_curator.stages.text.io.reader import ParquetReader
    from nemo_curator.stages.text.io.writer import JsonlWriter
    from nemo_curator.stages.text.modifiers import Modify
    from nemo_curator.stages.text.modifiers.string import MarkdownRemover, QuotationRemover, UrlRemover
    from nemo_curator.stages.text.modifiers.unicode import UnicodeReformatter
    from nemo_curator.stages.text.modules import AddId, DocumentJoiner, DocumentSplitter

    return [
        ParquetReader(str(at.inputs / "parquet"), files_per_partition=2),
        Modify([UnicodeReformatter(), UrlRemover(), MarkdownRemover(), QuotationRemover()]),
        AddId("id", id_prefix="p"),
        DocumentSplitter(separator="."),
        DocumentJoiner(separator="."),
        JsonlWriter(str(at.outputs / "modified")),
    ], None


def function_stage(at: Place) -> Parts:
    from nemo_curator.stages.function_decorators import processing_stage
    from nemo_curator.stages.resources import Resources

    @processing_stage(name="counts", resources=Resources(cpus=1))
    def counts(task: DocumentBatch) -> DocumentBatch:
        frame = task.to_pandas()
        frame["length"] = frame["text"].str.len()
        return DocumentBatch(dataset_name=task.dataset_name, data=frame, _stage_perf=task._stage_perf)

    return [read_jsonl(at, fields=["text"]), counts], None


def removal(at: Place) -> Parts:
    from nemo_curator.stages.text.deduplication.removal import TextDuplicatesRemovalStage
    from nemo_curator.stages.text.modules import AddId

    rows = [
        documents(*({"text": f"{batch}{row}", "id": f"p_{3 * batch + row}"} for row in range(3))) for batch in range(3)
    ]
    return [
        TextDuplicatesRemovalStage(str(at.inputs / "removal"), id_field="id", duplicate_id_field="id"),
        AddId("new"),
    ], rows


def math_text(at: Place) -> Parts:
    from nemo_curator.stages.math.classifiers.finemath import CenterCropTextStage
    from nemo_curator.stages.math.modifiers.merge_chunks import ChunkMergeStage
    from nemo_curator.stages.text.classifiers.utils import SortByLengthStage

    rows = [
        {
            "text": f"part {part}",
            "cleaned_text": f"clean {part}",
            "chunk_id": part,
            "url": "u",
            "n_tokens": 2,
            "attention_mask": [1] * (3 - part),
        }
        for part in range(3)
    ]
    return [
        CenterCropTextStage(center_crop_chars=6),
        SortByLengthStage(),
        ChunkMergeStage(groupby_columns=["url"]),
    ], [documents(*rows)]


def aegis_prompts(at: Place) -> Parts:
    from nemo_curator.stages.text.classifiers.aegis import FormatAegisPromptStage

    return [read_jsonl(at), FormatAegisPromptStage(text_field="text", max_chars=50)], None


def audio(at: Place) -> Parts:
    from nemo_curator.stages.audio.common import (
        GetAudioDurationStage,
        ManifestReader,
        ManifestWriterStage,
        PreserveByValueStage,
    )

    return [
        ManifestReader(str(at.inputs / "manifest.jsonl")),
        GetAudioDurationStage(),
        PreserveByValueStage("duration", 1.5, "ge"),
        ManifestWriterStage(str(at.outputs / "manifest.jsonl")),
    ], None


def audio_table(at: Place) -> Parts:
    from nemo_curator.stages.audio.io.convert import AudioToDocumentStage

    # One task: the stage makes a table of each batch, and how many tasks a batch has depends on when they arrive.
    return [AudioToDocumentStage()], [AudioTask(dataset_name="a", data={"text": "one", "duration": 1.5})]


def audio_segments(at: Place) -> Parts:
    from nemo_curator.stages.audio.io.extract_segments import SegmentExtractionStage
    from nemo_curator.stages.audio.postprocessing.timestamp_mapper import TimestampMapperStage
    from nemo_curator.stages.audio.preprocessing.mono_conversion import MonoConversionStage

    tasks = [
        AudioTask(
            dataset_name="a",
            data={
                "audio_filepath": str(at.inputs / "audio" / f"{number}.wav"),
                "start_ms": 100,
                "end_ms": 600,
                "original_file": str(at.inputs / "audio" / f"{number}.wav"),
            },
        )
        for number in range(1)  # the last stage writes one table of its worker's tasks
    ]
    return [
        MonoConversionStage(output_sample_rate=16_000),
        TimestampMapperStage(),
        SegmentExtractionStage(output_dir=str(at.outputs / "segments")),
    ], tasks


def audio_concatenated(at: Place) -> Parts:
    from nemo_curator.stages.audio.preprocessing.concatenation import SegmentConcatenationStage

    segments = [
        {
            "waveform": np.full((1, 1600), part, np.float32),
            "sample_rate": 16_000,
            "segment_num": part,
            "start_ms": 100 * part,
            "end_ms": 100 * part + 100,
            "original_file": "a.wav",
        }
        for part in range(3)
    ]
    return [SegmentConcatenationStage(silence_duration_sec=0.1)], [
        AudioTask(dataset_name="a", data={"segments": segments})
    ]


def transcripts(at: Place) -> Parts:
    from nemo_curator.stages.audio.tagging.text.chinese_conversion import ChineseConversionStage
    from nemo_curator.stages.audio.text_filtering.abbreviation_concat import AbbreviationConcatStage
    from nemo_curator.stages.audio.text_filtering.regex_substitution import RegexSubstitutionStage
    from nemo_curator.stages.audio.text_filtering.select_best_prediction import SelectBestPredictionStage
    from nemo_curator.stages.audio.text_filtering.whisper_hallucination import WhisperHallucinationStage

    tasks = [
        AudioTask(
            dataset_name="a",
            data={
                "primary_model_prediction": text,
                "fallback_model_prediction": text,
                "duration": 3.0,
                "pred_text": text,
                "text": text,
                "_skipme": "",
                "segments": [{"text": text}],
                "language": "en",
                "source_lang": "en",
            },
        )
        for text in ("the cat and 10 cats", "thank you for watching", "i b m makes it")
    ]
    return [
        SelectBestPredictionStage(),
        WhisperHallucinationStage(common_hall_file=str(at.inputs / "phrases.txt")),
        RegexSubstitutionStage(regex_params_yaml=str(at.inputs / "rules.yaml")),
        AbbreviationConcatStage(),
        ChineseConversionStage(),
    ], tasks


def sound_events(at: Place) -> Parts:
    from nemo_curator.stages.audio.postprocessing.sed_postprocessing import SEDPostprocessingStage

    framewise = np.zeros((100, 527), np.float32)
    framewise[20:70, 0] = 0.9
    return [SEDPostprocessingStage()], [
        AudioTask(dataset_name="a", data={"_sed_framewise": framewise, "sed_fps": 50.0, "audio_filepath": "a.wav"})
    ]


def diarized(at: Place) -> Parts:
    from nemo_curator.stages.audio.tagging.merge_alignment_diarization import MergeAlignmentDiarizationStage
    from nemo_curator.stages.audio.tagging.prepare_module_segments import PrepareModuleSegmentsStage

    words = [{"word": f"w{number}.", "start": number / 2, "end": number / 2 + 0.4} for number in range(24)]
    segments = [{"speaker": "s0", "start": 0.0, "end": 6.0}, {"speaker": "s1", "start": 6.0, "end": 12.0}]
    data = {
        "alignment": words,
        "segments": segments,
        "overlap_segments": [],
        "audio_item_id": "a",
        "duration": 12.0,
        "text": " ".join(word["word"] for word in words),
        "audio_filepath": "a.wav",
    }
    return [MergeAlignmentDiarizationStage(), PrepareModuleSegmentsStage(min_duration=1.0)], [
        AudioTask(dataset_name="a", data=data)
    ]


def images(at: Place) -> Parts:
    from nemo_curator.stages.image.deduplication.removal import ImageDuplicatesRemovalStage
    from nemo_curator.stages.image.io.image_writer import ImageWriterStage

    return [
        ImageDuplicatesRemovalStage(str(at.inputs / "removal")),
        ImageWriterStage(str(at.outputs / "images"), images_per_tar=2),
    ], _images()


def image_table(at: Place) -> Parts:
    from nemo_curator.stages.image.io.convert import ConvertImageBatchToDocumentBatchStage

    return [ConvertImageBatchToDocumentBatchStage(fields=["image_id", "image_path"])], _images()


def _images() -> list[Any]:
    from nemo_curator.tasks.image import ImageBatch, ImageObject

    return [
        ImageBatch(
            dataset_name="i",
            data=[
                ImageObject(f"/i/{number}.png", f"p_{number}", image_data=np.full((8, 8, 3), number * 20, np.uint8))
                for number in range(3 * batch, 3 * batch + 3)
            ],
        )
        for batch in range(2)
    ]


def interleaved(at: Place) -> Parts:
    from nemo_curator.stages.interleaved.io.reader import InterleavedWebdatasetReader
    from nemo_curator.stages.interleaved.io.writers.tabular import InterleavedParquetWriterStage
    from nemo_curator.stages.interleaved.stages import InterleavedAspectRatioFilterStage

    return [
        InterleavedWebdatasetReader(str(at.inputs / "interleaved"), materialize_on_read=True),
        InterleavedAspectRatioFilterStage(),
        InterleavedParquetWriterStage(str(at.outputs / "interleaved")),
    ], None


def interleaved_again(at: Place) -> Parts:
    from nemo_curator.stages.interleaved.io.reader import InterleavedParquetReader
    from nemo_curator.stages.interleaved.io.writers.webdataset import InterleavedWebdatasetWriterStage

    table = at.outputs / "table"
    table.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "sample_id": f"s{number}",
            "position": 0,
            "modality": "text",
            "content_type": "text/plain",
            "text_content": f"text {number}",
            "binary_content": None,
            "source_ref": None,
            "materialize_error": None,
        }
        for number in range(2)
    ]
    import pyarrow as pa
    import pyarrow.parquet as pq
    from nemo_curator.tasks.interleaved import INTERLEAVED_SCHEMA

    pq.write_table(pa.Table.from_pylist(rows, schema=INTERLEAVED_SCHEMA), table / "0.parquet")
    return [
        InterleavedParquetReader(str(table)),
        InterleavedWebdatasetWriterStage(str(at.outputs / "tars")),
    ], None


def clients(at: Place) -> Parts:
    from nemo_curator.models.client.openai_client import AsyncOpenAIClient, OpenAIClient
    from nemo_curator.stages.synthetic.nemotron_cc.nemotron_cc import (
        DistillStage,
        DiverseQAStage,
        ExtractKnowledgeStage,
        KnowledgeListPostProcessingStage,
        KnowledgeListStage,
        WikipediaParaphrasingStage,
    )

    def options(field: str) -> dict[str, Any]:
        client = AsyncOpenAIClient(base_url=f"{at.server}/v1", api_key="none", max_retries=1)
        return {"client": client, "model_name": "m", "input_field": "text", "output_field": field}

    blocking = OpenAIClient(base_url=f"{at.server}/v1", api_key="none")
    return [
        read_jsonl(at),
        WikipediaParaphrasingStage(**options("paraphrase")),
        DiverseQAStage(**options("qa")),
        DistillStage(**{**options("distilled"), "client": blocking}),
        ExtractKnowledgeStage(**options("knowledge")),
        KnowledgeListStage(**options("knowledge_list")),
        KnowledgeListPostProcessingStage(),
    ], None


def questions(at: Place) -> Parts:
    from nemo_curator.models.client.openai_client import AsyncOpenAIClient
    from nemo_curator.stages.synthetic.qa_multilingual_synthetic import QAMultilingualSyntheticStage

    client = AsyncOpenAIClient(base_url=f"{at.server}/v1", api_key="none", max_retries=1)
    return [
        QAMultilingualSyntheticStage(
            prompt="a question in {language}", languages=["English"], client=client, model_name="m", num_samples=3
        )
    ], None


def translation(at: Place) -> Parts:
    from nemo_curator.models.client.openai_client import AsyncOpenAIClient
    from nemo_curator.stages.text.experimental.translation import TranslationStage
    from nemo_curator.stages.text.experimental.translation.evaluation.text_quality import TextQualityMetricStage

    client = AsyncOpenAIClient(base_url=f"{at.server}/v1", api_key="none", max_retries=1)
    rows = [
        documents(
            *(
                {"text": f"{text} {batch}", "translated_text": "there" if not row else None}
                for row, text in enumerate(TEXTS[:3])
            )
        )
        for batch in range(2)
    ]
    return [
        TranslationStage(
            source_lang="en",
            target_lang="de",
            client=client,
            model_name="m",
            enable_faith_eval=True,
            filter_enabled=True,
            merge_scores=True,
            output_mode="both",
            skip_translated=True,
        ),
        TextQualityMetricStage(hypothesis_text_field="translated_text", metrics=[{"type": "chrf", "threshold": 1.0}]),
    ], rows


def download(at: Place) -> Parts:
    from nemo_curator.stages.text.download import DocumentDownloadExtractStage

    from tests.curator.parity_stages import Fetches, Lines, Urls, Words

    return [
        DocumentDownloadExtractStage(
            url_generator=Urls([f"{at.server}/jsonl/{number}.jsonl" for number in range(3)]),
            downloader=Fetches(str(at.outputs / "downloads")),
            iterator=Lines(),
            extractor=Words(),
            extractor_max_calls_per_worker=2,
        ),
    ], None


def semantic(at: Place) -> Parts:
    from tests.curator.stages_semantic import Clusters, Duplicates

    (at.outputs / "found").mkdir(parents=True, exist_ok=True)
    return [Clusters(str(at.inputs / "clusters")), Duplicates(output_path=str(at.outputs / "found"), eps=0.05)], None


def pdf_lists(at: Place) -> Parts:
    from nemo_curator.stages.interleaved.pdf.nemotron_parse.partitioning import PDFPartitioningStage

    manifest = at.inputs / "pdfs.jsonl"
    manifest.write_text("".join(json.dumps({"file_name": f"{number}.pdf"}) + "\n" for number in range(5)))
    return [PDFPartitioningStage(str(manifest), pdfs_per_task=2)], None


def pdf_pages(at: Place) -> Parts:
    from nemo_curator.stages.interleaved.pdf.nemotron_parse.preprocess import PDFPreprocessStage
    from PIL import Image

    for number in range(2):
        Image.new("RGB", (60, 40), (number * 90, 10, 10)).save(at.outputs / f"{number}.pdf", "PDF")
    entries = [json.dumps({"file_name": f"{number}.pdf", "url": "u"}) for number in range(2)]
    return [PDFPreprocessStage(pdf_dir=str(at.outputs), dpi=72)], [FileGroupTask(dataset_name="p", data=entries)]


def samples(at: Place) -> Parts:
    from nemo_curator.stages.synthetic.omni.io import HFDatasetImageReaderStage, JsonlSampleWriterStage

    from tests.curator.parity_stages import Describes

    folder = at.outputs / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(_png(10 + number, 10))
    return [
        HFDatasetImageReaderStage(str(folder), at.outputs / "cache"),
        Describes.at(at.server),
        JsonlSampleWriterStage(str(at.outputs / "samples.jsonl")),
    ], None


def video(at: Place) -> Parts:
    from nemo_curator.stages.video.clipping.clip_extraction_stages import FixedStrideExtractorStage
    from nemo_curator.tasks.video import Video, VideoMetadata, VideoTask

    facts = VideoMetadata(
        size=100,
        height=48,
        width=64,
        framerate=10.0,
        num_frames=40,
        duration=4.0,
        video_codec="h264",
        pixel_format="yuv420p",
        bit_rate_k=10,
    )
    videos = [Video(input_video=Path(f"/v/{number}.mp4"), source_bytes=b"v", metadata=facts) for number in range(2)]
    stage = FixedStrideExtractorStage(clip_len_s=2.0, clip_stride_s=1.5, min_clip_length_s=0.5, limit_clips=0)
    return [stage], [VideoTask(dataset_name="v", data=video) for video in videos]


def video_files(at: Place) -> Parts:
    from nemo_curator.stages.video.io.video_reader import VideoReader

    folder = at.inputs / "videos"
    folder.mkdir(exist_ok=True)
    for number in range(2):
        (folder / f"{number}.mp4").write_bytes(bytes([number]) * 100)
    return [VideoReader(str(folder))], None


_WRITE_LANCE = """
import sys, lance, pyarrow as pa
from nemo_curator.tasks.interleaved import INTERLEAVED_SCHEMA
rows = [{"text": f"text {row}", "n": row} for row in range(10)]
lance.write_dataset(pa.Table.from_pylist(rows), sys.argv[1] + "/rows.lance", max_rows_per_file=3)
parts = [
    {"sample_id": str(row // 2), "position": row % 2, "modality": "text", "text_content": f"part {row}"}
    for row in range(6)
]
table = pa.Table.from_pylist(parts, schema=INTERLEAVED_SCHEMA)
lance.write_dataset(table, sys.argv[1] + "/parts.lance", max_rows_per_file=2)
"""


def lance_rows(at: Place) -> Parts:
    from nemo_curator.stages.text.io.reader.lance import LanceReader

    return [LanceReader(f"{_lance_folder(at)}/rows.lance", fragments_per_partition=2, fields=["n", "text"])], None


def lance_parts(at: Place) -> Parts:
    from nemo_curator.stages.interleaved.lance.reader import InterleavedLanceReader

    return [InterleavedLanceReader(f"{_lance_folder(at)}/parts.lance")], None


def _lance_folder(at: Place) -> Path:
    folder = at.inputs / "lance"
    if not folder.exists():
        folder.mkdir()
        subprocess.run([sys.executable, "-c", _WRITE_LANCE, folder], check=True)
    return folder


NOT_IN_THE_DRIVER = {"lance_rows", "lance_parts"}
"""Pipelines whose library keeps threads and descriptors for as long as the process that reads with it lives."""

ABSENT = {"transcripts": "1.3", "sound_events": "1.3", "lance_rows": "1.3", "lance_parts": "1.3"}
"""Pipelines of stages that a version does not have."""

PIPELINES: dict[str, Callable[[Place], Parts]] = {
    make.__name__: make
    for make in (
        filters,
        modifiers,
        function_stage,
        removal,
        math_text,
        aegis_prompts,
        audio,
        audio_table,
        audio_segments,
        audio_concatenated,
        transcripts,
        sound_events,
        diarized,
        images,
        image_table,
        interleaved,
        interleaved_again,
        clients,
        questions,
        translation,
        download,
        semantic,
        pdf_lists,
        pdf_pages,
        samples,
        video,
        video_files,
        lance_rows,
        lance_parts,
    )
}


def outcome(tasks: list[Any], at: Place) -> dict[str, Any]:
    """Return what two executors must agree on, as JSON has it: data, ids and stages of the tasks, and written files."""
    return {
        "tasks": sorted(json.dumps([task.task_id, _plain(task.data, at)], sort_keys=True) for task in tasks),
        "stages": sorted({json.dumps([perf.stage_name for perf in task._stage_perf]) for task in tasks}),
        "items": sorted(json.dumps([perf.num_items_processed for perf in task._stage_perf]) for task in tasks),
        "files": {
            re.sub(r"_worker.*\.", "_worker.", str(path.relative_to(at.outputs))): _content(path, at)
            for path in sorted(at.outputs.rglob("*"))
            if path.is_file() and ".lance" not in str(path)
        },
    }


def _content(path: Path, at: Place) -> Any:
    if path.suffix == ".parquet":
        return _plain(pd.read_parquet(path), at)
    if path.suffix == ".tar":
        with tarfile.open(path) as tar:
            return sorted([member.name, member.size] for member in tar)
    if path.suffix in {".jsonl", ".csv"}:
        return sorted(path.read_text().replace(str(at.outputs), "OUT").splitlines())
    return path.stat().st_size


def _plain(value: Any, at: Place) -> Any:
    """Return a value without the addresses and folders that differ between two runs."""
    if hasattr(value, "to_pandas"):
        value = value.to_pandas()
    if isinstance(value, pd.DataFrame):
        value = value.sort_values(list(value.columns[:1]), kind="stable").to_dict("records")
    if hasattr(value, "__dataclass_fields__"):
        value = {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {str(key): _plain(part, at) for key, part in sorted(value.items()) if not str(key).endswith("_time")}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part, at) for part in value]
    if hasattr(value, "numpy"):
        return _plain(value.numpy(), at)
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else round(float(value), 5)
    return str(value).replace(str(at.outputs), "OUT").replace(at.server, "SERVER")
