"""`/metrics`, as Prometheus' own parser reads it."""

from prometheus_client.parser import text_string_to_metric_families

from doors_kit import Doors


def scraped(doors: Doors) -> dict[tuple[str, ...], float]:
    """By name and the values of the labels, these by their names."""
    status, found, said = doors.ask("GET", "/metrics")
    assert (status, found["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = list(text_string_to_metric_families(said.decode()))
    assert len({family.name for family in families}) == len(families), "each once"
    assert all(family.documentation for family in families)
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def test_one_scrape_tells_of_kernel_models_plugins_and_requests(doors: Doors) -> None:
    body = {"model": "tiny", "prompt": "the hello", "max_tokens": 5, "temperature": 0}
    assert doors.ask("POST", "/v1/completions", body)[0] == 200
    before = scraped(doors)
    assert doors.ask("POST", "/v1/completions", body)[0] == 200
    assert doors.ask("POST", "/v1/completions", body | {"suffix": "x"})[0] == 400
    assert doors.ask("GET", "/nothing/at/all")[0] == 404
    after = scraped(doors)

    def gained(*key: str) -> float:
        return after[key] - before.get(key, 0.0)

    assert gained("claw_http_requests_total", "/v1/completions", "200") == 1
    assert gained("claw_http_requests_total", "/v1/completions", "400") == 1
    assert gained("claw_http_requests_total", "other", "404") == 1
    assert gained("claw_tokens_total", "completion", "tiny") == 5
    assert gained("claw_tokens_total", "prompt", "tiny") > 0
    assert gained("claw_first_piece_seconds_count", "tiny") == 1
    assert after["claw_memory_used_bytes",] <= after["claw_memory_budget_bytes",]
    assert after["claw_tasks", "interactive", "running"] == 1, "the gateway itself"
    assert after["claw_worker_starts_total", "gateway"] == 1
    assert after["claw_plugin_quarantined", "engine"] == 0
    assert [key for key in after if key[:3] == ("claw_worker_bytes", "tiny", "engine")]
    assert next(key[1] for key in after if key[0] == "claw_sandbox_info")
    assert not [key for key in after if key[0].endswith("_created")]


def test_it_is_ready_once_the_sandbox_is_proved(doors: Doors) -> None:
    status, _, said = doors.ask("GET", "/ready")
    assert status == 200 and said.startswith(b"sandbox: ")
