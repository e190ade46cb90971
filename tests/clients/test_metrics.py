"""`/metrics` as Prometheus' own client library reads it, in both formats; it is stricter than most scrapers."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import TYPE_CHECKING

from prometheus_client import parser
from prometheus_client.openmetrics import parser as open_parser

from support import Forkpy

if TYPE_CHECKING:
    from pathlib import Path

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.9,*/*;q=0.1"


def scrape(url: str, accept: str) -> tuple[str, str]:
    request = urllib.request.Request(url.removesuffix("/mcp") + "/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def samples(families: object) -> dict[tuple[str, str], float]:
    return {
        (sample.name, ",".join(sorted(sample.labels.values()))): sample.value
        for family in families
        for sample in family.samples
    }


async def test_the_official_parsers_read_it(tmp_path: Path) -> None:
    with Forkpy("http", tmp_path) as forkpy:
        async with forkpy.client() as client:
            for code in ("1", "1/0", "import os; os.abort()", "2"):
                await client.call_tool("run_python_code", {"code": code}, raise_on_error=False)
            kind, text = await asyncio.to_thread(scrape, forkpy.url, OPENMETRICS)
            plain_kind, plain = await asyncio.to_thread(scrape, forkpy.url, "text/plain")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert plain_kind.startswith("text/plain; version=0.0.4")
    families = list(open_parser.text_string_to_metric_families(text))
    seen = samples(families)
    assert seen["forkpy_cells_total", "ok"] == 2
    assert seen["forkpy_cells_total", "error"] == 1
    assert seen["forkpy_cells_total", "died"] == 1
    assert seen["forkpy_cell_seconds_count", ""] == 4
    assert seen["forkpy_worker_deaths_total", "died"] == 1
    assert {family.type for family in families} == {"counter", "gauge", "histogram", "info"}
    assert all(family.documentation for family in families)
    plain_seen = samples(parser.text_string_to_metric_families(plain))
    # Spare workers are forked behind, also between the two looks.
    counters = {key: value for key, value in seen.items() if key[0].startswith("forkpy_") and "_total" in key[0]}
    del counters["forkpy_forks_total", ""]
    assert counters.items() <= plain_seen.items()
