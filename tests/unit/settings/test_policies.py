"""policies.yaml becomes models with policies in plain JSON, or every problem is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from broker.app.settings import load_policies, spec_changed
from broker.app.settings.policies import ModelSettings, StabilisationSettings
from broker.model.errors import ConfigError, ConfigErrors
from broker.model.signals import Signal
from broker.model.spec import EngineSpec, ModelSpec, PolicySpec, StabilisationSpec
from broker.model.wire import dumps, loads
from policies.registry import build
from tests.support.strategies import json_values
from tests.unit.settings.files import EXAMPLES, POLICIES, refusal, site_of_data, written

ENGINE = "engine: {command: [serve, '{port}']}"


def models_of(folder: Path, text: str) -> dict[str, ModelSpec]:
    return {model.model_id: model for model in load_policies(written(folder, text))}


def with_policy(folder: Path, policy: str) -> Path:
    """A file whose fourth line is the policy."""
    return written(folder, f"models:\n  chat:\n    {ENGINE}\n    policy: {policy}\n    max: 4\n")


def with_rule(folder: Path, rule: str) -> Path:
    return with_policy(folder, f"{{kind: threshold, rules: [{rule}]}}")


def with_entry(folder: Path, entry: str) -> Path:
    return with_policy(folder, f"{{kind: schedule, time_zone: UTC, entries: [{entry}]}}")


def test_a_threshold_policy_becomes_plain_rules(tmp_path: Path) -> None:
    chat = models_of(tmp_path, POLICIES)["chat"]
    assert chat == ModelSpec(
        "chat",
        EngineSpec(("serve", "--port={port}")),
        PolicySpec(
            "threshold",
            {
                "rules": [
                    {
                        "name": "queue_age_s above 5",
                        "signal": "queue_age_s",
                        "above": 5.0,
                        "below": None,
                        "for_s": 30.0,
                        "change": 1,
                        "projected": False,
                    },
                    {
                        "name": "requests_per_replica below 8",
                        "signal": "requests_per_replica",
                        "above": None,
                        "below": 8.0,
                        "for_s": 300.0,
                        "change": -1,
                        "projected": True,
                    },
                ]
            },
        ),
        maximum=4,
    )


def test_a_schedule_becomes_minutes_and_numbered_days(tmp_path: Path) -> None:
    path = with_policy(
        tmp_path,
        "{kind: schedule, time_zone: Europe/Berlin, default: {floor: 1}, within: {kind: threshold, rules: [{signal: "
        "kv_cache_use, above: 0.9, change: 2}]}, entries: [{name: office, days: [mon, sun], from: 8:00, to: 18:30, "
        "floor: 2}, {from: 22:00, to: 06:00, dates: {from: 2030-12-24}, ceiling: 3}]}",
    )
    policy = load_policies(path)[0].policy
    assert policy == PolicySpec(
        "schedule",
        {
            "time_zone": "Europe/Berlin",
            "default": {"floor": 1, "ceiling": 4},
            "entries": [
                {
                    "name": "office",
                    "days": [0, 6],
                    "from_minute": 480,
                    "to_minute": 1110,
                    "first_date": None,
                    "last_date": None,
                    "floor": 2,
                    "ceiling": None,
                },
                {
                    "name": "daily 22:00-06:00 2030-12-24..",
                    "days": [],
                    "from_minute": 1320,
                    "to_minute": 360,
                    "first_date": "2030-12-24",
                    "last_date": None,
                    "floor": None,
                    "ceiling": 3,
                },
            ],
            "within": {
                "kind": "threshold",
                "parameters": {
                    "rules": [
                        {
                            "name": "kv_cache_use above 0.9",
                            "signal": "kv_cache_use",
                            "above": 0.9,
                            "below": None,
                            "for_s": 0.0,
                            "change": 2,
                            "projected": False,
                        }
                    ]
                },
            },
        },
    )


def test_an_entry_without_times_holds_all_day(tmp_path: Path) -> None:
    parameters: Any = load_policies(with_entry(tmp_path, "{floor: 2}"))[0].policy.parameters
    assert (parameters["entries"][0]["from_minute"], parameters["entries"][0]["to_minute"]) == (0, 1440)


@pytest.mark.parametrize(
    ("default", "bounds"),
    [
        pytest.param("{}", (1, 4), id="the model's"),
        pytest.param("{floor: 2, ceiling: 3}", (2, 3), id="its own"),
        pytest.param("{floor: 6}", (6, 6), id="a floor above max moves the ceiling"),
        pytest.param("{ceiling: 0}", (0, 0), id="a ceiling below min moves the floor"),
    ],
)
def test_the_default_bounds_never_cross(tmp_path: Path, default: str, bounds: tuple[int, int]) -> None:
    path = with_policy(tmp_path, f"{{kind: schedule, time_zone: UTC, default: {default}}}")
    parameters: Any = load_policies(path)[0].policy.parameters
    assert (parameters["default"]["floor"], parameters["default"]["ceiling"]) == bounds


def test_a_fixed_number_of_replicas_needs_no_policy(tmp_path: Path) -> None:
    policy = models_of(tmp_path, f"models:\n  chat: {{{ENGINE}, min: 2, max: 2}}\n")["chat"].policy
    assert policy.parameters["default"] == {"floor": 2, "ceiling": 2}


def test_shadows_stand_beside_the_policy(tmp_path: Path) -> None:
    text = (
        POLICIES + "        shadows: {bold: {kind: threshold, rules: [{signal: queue_age_s, above: 1s, change: +4}]}}"
    )
    assert models_of(tmp_path, text)["chat"].shadows["bold"].kind == "threshold"


def test_every_field_of_a_model_can_be_set(tmp_path: Path) -> None:
    text = """
        models:
          chat:
            engine: {command: [serve, "{port}"], environment: {A: "1"}, profile: h100}
            gpus: 2
            min: 0
            max: 0
            pools: [local]
            load_timeout: 1m
            drain_limit: 2m
            stop_grace: 3s
            stabilisation: {scale_out: 1s, scale_in: 2s, max_step_out: 3, max_step_in: 4}
    """
    chat = models_of(tmp_path, text)["chat"]
    assert (chat.engine.environment, chat.engine.profile) == ({"A": "1"}, "h100")
    assert (chat.gpus, chat.minimum, chat.maximum, chat.pools) == (2, 0, 0, ("local",))
    assert (chat.load_timeout_s, chat.drain_limit_s, chat.stop_grace_s) == (60.0, 120.0, 3.0)
    assert chat.stabilisation == StabilisationSpec(1.0, 2.0, 3, 4)


def test_the_defaults_are_those_of_the_core(tmp_path: Path) -> None:
    assert StabilisationSettings().to_spec() == StabilisationSpec()
    settings = ModelSettings.model_validate({"engine": {"command": ["serve"]}})
    plain = ModelSpec("chat", EngineSpec(("serve",)), settings.to_spec("chat").policy)
    assert settings.to_spec("chat") == plain


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        pytest.param("{above: 5, change: 1}", "signal: this field is missing: What is looked at.", id="no signal"),
        pytest.param(
            "{signal: queue_age, above: 5s, change: 1}",
            "signal: 'queue_age' is not known here; did you mean queue_age_s?",
            id="an unknown signal",
        ),
        pytest.param("{signal: queue_age_s, change: 1}", "above: give exactly one of above and below", id="no bound"),
        pytest.param(
            "{signal: queue_age_s, above: 5, below: 1, change: 1}", "above: give exactly one of above", id="two bounds"
        ),
        pytest.param(
            "{signal: requests_waiting, above: 5s, change: 1}",
            "above: '5s' is not a number, and requests_waiting is no time",
            id="a duration for a count",
        ),
        pytest.param(
            "{signal: arrival_rate_per_s, above: 5s, change: 1}",
            "above: '5s' is not a number, and arrival_rate_per_s is no time",
            id="a duration for a rate",
        ),
        pytest.param("{signal: kv_cache_use, above: 80, change: 1}", "above: kv_cache_use lies between", id="per cent"),
        pytest.param(
            "{signal: queue_age_s, above: 1, for: 2d, change: 1}",
            "for: 172800.0 is too much; the most is 86400.0",
            id="a window of days",
        ),
        pytest.param("{signal: queue_age_s, below: 0, change: -1}", "below: 0 is too little", id="below nothing"),
        pytest.param("{signal: queue_age_s, above: 1, change: 0}", "change: +0 does not go with above", id="no change"),
        pytest.param("{signal: queue_age_s, above: 1, change: -1}", "change: -1 does not go with above", id="inverted"),
        pytest.param("{signal: queue_age_s, below: 1, change: +1}", "change: +1 does not go with below", id="and back"),
        pytest.param(
            "{signal: queue_age_s, below: 1, change: -1, projected: true}",
            "projected: only for rules that remove replicas and look at kv_cache_use",
            id="a projection that nobody can make",
        ),
        pytest.param(
            "{signal: queue_age_s, above: 1, change: 1, for: 10x}", "for: '10x' is not a duration", id="a bad duration"
        ),
        pytest.param(
            "{signal: queue_age_s, above: 1, change: 1, four: 1s}", "four: unknown field; did you mean for?", id="typo"
        ),
        pytest.param("{signal: queue_age_s, above: .inf, change: 1}", "above: '.inf' is not a duration", id="infinity"),
        pytest.param("{signal: queue_age_s, above: 1e999, change: 1}", "above: inf is not a finite", id="overflow"),
    ],
)
def test_a_wrong_rule_is_named(tmp_path: Path, rule: str, problem: str) -> None:
    problems = refusal(load_policies, with_rule(tmp_path, rule))
    assert len(problems) == 1
    assert problems[0].startswith(f"4: models.chat.policy.rules[0].{problem}")


def test_rules_that_would_swing_are_refused(tmp_path: Path) -> None:
    path = with_rule(
        tmp_path, "{signal: kv_cache_use, above: 0.5, change: 1}, {signal: kv_cache_use, below: 0.6, change: -1}"
    )
    assert refusal(load_policies, path) == [
        "4: models.chat.policy.rules[1].below: kv_cache_use between 0.5 and 0.6 would add and remove at once; "
        "write 0.5 or less"
    ]


def test_two_rules_of_one_name_are_refused(tmp_path: Path) -> None:
    rule = "{signal: queue_age_s, above: 5, change: 1}"
    assert refusal(load_policies, with_rule(tmp_path, f"{rule}, {rule}")) == [
        "4: models.chat.policy.rules[1].name: 'queue_age_s above 5' names two of these; give each a name of its own"
    ]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        pytest.param("{}", "changes nothing; give floor, ceiling or both", id="nothing"),
        pytest.param("{floor: 3, ceiling: 2}", "floor: 3 is more than ceiling, which is 2", id="crossed"),
        pytest.param("{days: [monday], floor: 1}", "days[0]: 'monday' is not known here; did you mean mon?", id="day"),
        pytest.param("{from: 25:00, floor: 1}", "from: '25:00' is not a time of day", id="no such hour"),
        pytest.param("{from: 24:30, floor: 1}", "from: '24:30' is not a time of day", id="after the end"),
        pytest.param("{to: 18, floor: 1}", "to: 18 is not a time of day; write 08:00", id="an hour alone"),
        pytest.param("{from: 24:00, floor: 1}", "from: 24:00 is only an end", id="a beginning at the end"),
        pytest.param("{dates: {from: 24.12.}, floor: 1}", "dates.from: '24.12.' is not a date", id="a date of home"),
        pytest.param("{dates: {from: 20301224}, floor: 1}", "dates.from: 20301224 is not a date", id="a number"),
        pytest.param("{dates: {to: 2030-02-30}, floor: 1}", "dates.to: '2030-02-30' is not a date", id="no such day"),
        pytest.param(
            "{dates: {from: 2031-01-01, to: 2030-12-24}, floor: 1}",
            "dates.to: 2030-12-24 lies before 2031-01-01",
            id="dates in the wrong order",
        ),
    ],
)
def test_a_wrong_entry_of_a_schedule_is_named(tmp_path: Path, entry: str, problem: str) -> None:
    problems = refusal(load_policies, with_entry(tmp_path, entry))
    assert len(problems) == 1
    assert problems[0].removeprefix("4: models.chat.policy.entries[0]").lstrip(".: ").startswith(problem)


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        pytest.param("{kind: treshold}", ".kind: 'treshold' is not known here; did you mean threshold?", id="mistyped"),
        pytest.param("{kind: magic}", ".kind: 'magic' is not known here; known: threshold, schedule", id="unknown"),
        pytest.param("{rules: []}", ".kind: this field is missing; known: threshold, schedule", id="no kind"),
        pytest.param("threshold", ": 'threshold' is not a group of fields", id="a word for a policy"),
        pytest.param("{kind: threshold, rules: []}", ".rules: needs at least 1", id="no rules"),
        pytest.param(
            "{kind: threshold, rules: [], time_zone: UTC}", ".rules: needs at least 1", id="another kind's field"
        ),
        pytest.param(
            "{kind: schedule, time_zone: Europe/Berln}",
            ".time_zone: 'Europe/Berln' is not a time zone; did you mean Europe/Berlin?",
            id="a mistyped time zone",
        ),
        pytest.param(
            "{kind: schedule, time_zone: ../secret}", ".time_zone: '../secret' is not a time zone", id="a path outside"
        ),
        pytest.param(
            "{kind: schedule, time_zone: UTC, within: {kind: magic}}", ".within.kind: 'magic' is not known", id="inside"
        ),
    ],
)
def test_a_wrong_policy_is_named(tmp_path: Path, policy: str, problem: str) -> None:
    assert refusal(load_policies, with_policy(tmp_path, policy))[0].startswith(f"4: models.chat.policy{problem}")


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        pytest.param("{}", "engine: this field is missing: How one replica is started.", id="no engine"),
        pytest.param("{engine: {command: []}}", "engine.command: needs at least 1", id="no command"),
        pytest.param("{engine: {command: vllm serve}}", "engine.command: 'vllm serve' is not a list", id="a line"),
        pytest.param("{engine: {command: [serve, 8000]}}", "engine.command[1]: 8000 is not text; put", id="a number"),
        pytest.param(
            "{engine: {command: [serve, '{prot}']}}",
            "engine.command[1]: {prot} stands for nothing; did you mean port?",
            id="a mistyped placeholder",
        ),
        pytest.param("{engine: {command: [vllm, --api-key=x]}}", "engine.command[1]: leave it out", id="a shared key"),
        pytest.param(
            "{engine: {command: [vllm], environment: {VLLM_API_KEY: x}}}",
            "engine.environment.VLLM_API_KEY: leave it out",
            id="a shared key by environment",
        ),
        pytest.param(f"{{{ENGINE}, min: 3, max: 2}}", "max: 2 is less than min, which is 3", id="min over max"),
        pytest.param(f"{{{ENGINE}, max: 2}}", "policy: missing: something must decide between 1 and 2", id="nothing"),
        pytest.param(f"{{{ENGINE}, gpus: 0}}", "gpus: 0 is too little; the least is 1", id="no GPU"),
        pytest.param(f"{{{ENGINE}, pools: local}}", "pools: 'local' is not a list", id="a pool for a list"),
    ],
)
def test_a_wrong_model_is_named(tmp_path: Path, model: str, problem: str) -> None:
    problems = refusal(load_policies, written(tmp_path, f"models:\n  chat: {model}\n"))
    assert problems[0].startswith(f"2: models.chat.{problem}")


def test_json_in_a_command_is_no_placeholder(tmp_path: Path) -> None:
    text = """models: {chat: {engine: {command: [vllm, '--config={"a": {"b": 1}}', '{port}']}}}"""
    assert models_of(tmp_path, text)["chat"].engine.command[1] == '--config={"a": {"b": 1}}'


def test_a_pool_that_the_site_has_not_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, f"models:\n  chat:\n    {ENGINE}\n    pools:\n      - local\n      - locl\n")
    assert refusal(lambda path: load_policies(path, site_of_data()), path) == [
        "6: models.chat.pools[1]: the site has no pool 'locl'; did you mean local? (known: local)"
    ]
    assert load_policies(path)[0].pools == ("local", "locl")


def test_a_model_that_names_no_pool_runs_in_all(tmp_path: Path) -> None:
    site = site_of_data(pools={"a": {"kind": "local", "gpus": 1}, "b": {"kind": "local", "gpus": 1}})
    assert load_policies(written(tmp_path, POLICIES), site)[0].pools == ("a", "b")


def test_the_digest_changes_with_what_is_declared_and_with_nothing_else(tmp_path: Path) -> None:
    site, models = site_of_data().spec, load_policies(written(tmp_path, POLICIES))
    first, later = spec_changed(site, models, 1.0), spec_changed(site, models, 2.0)
    assert (first.site, first.models, first.received_at) == (site, models, 1.0)
    assert len(first.digest) == 64
    assert first.digest == later.digest
    assert first.digest != spec_changed(site, (), 1.0).digest
    with_remark = load_policies(written(tmp_path, "# a remark\n" + POLICIES.replace("30s", "0.5m")))
    assert spec_changed(site, with_remark, 1.0).digest == first.digest


def test_what_was_read_travels(tmp_path: Path) -> None:
    changed = spec_changed(site_of_data().spec, load_policies(EXAMPLES / "policies-vllm.yaml"), 1.0)
    assert loads(type(changed), dumps(changed)) == changed


@st.composite
def spoiled(draw: st.DrawFn) -> Any:
    """The examples with anything in place of one of their values."""
    data = yaml.safe_load(
        (EXAMPLES / draw(st.sampled_from(["policies.yaml", "policies-vllm.yaml"]))).read_text("utf-8")
    )
    data = yaml.load(yaml.dump(data), yaml.SafeLoader)
    at, places = data, []
    while isinstance(at, dict | list) and at:
        key = draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
        places.append((at, key))
        at = at[key]
    holder, key = draw(st.sampled_from(places))
    holder[key] = draw(
        json_values | st.sampled_from(["5s", "-1", "08:00", {"kind": "schedule"}, {"kind": "threshold"}])
    )
    return data


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=spoiled())
def test_whatever_stands_in_the_file_it_is_read_or_refused_by_line(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "spoiled.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    problems: tuple[ConfigError, ...] = ()
    try:
        models = load_policies(path)
    except ConfigErrors as error:
        problems = error.problems
    else:
        assert spec_changed(site_of_data().spec, models, 1.0).digest
    assert all(problem.line for problem in problems)


def fields_of(
    required: dict[str, st.SearchStrategy[Any]], optional: dict[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


def rules(side: str, change: int) -> st.SearchStrategy[dict[str, Any]]:
    return fields_of(
        {
            "signal": st.sampled_from([signal.value for signal in Signal]),
            side: st.sampled_from([0.1, 0.5, 1, 8]),
            "change": st.just(change),
        },
        {"for": st.sampled_from(["0s", "30s"]), "projected": st.booleans(), "name": st.sampled_from(["a", "b"])},
    )


RULES = rules("above", +1) | rules("below", -1)
TIMES = st.sampled_from(["00:00", "8:00", "18:30", "24:00"])
DATES = st.sampled_from(["2028-02-29", "2030-12-24", "2031-01-01"])
ENTRIES = fields_of(
    {"floor": st.integers(0, 3)},
    {
        "ceiling": st.integers(0, 3),
        "days": st.lists(st.sampled_from(["mon", "sun"]), max_size=3),
        "from": TIMES,
        "to": TIMES,
        "dates": fields_of({}, {"from": DATES, "to": DATES}),
        "name": st.sampled_from(["x", "y"]),
    },
)
POLICY_DATA = st.recursive(
    fields_of({"kind": st.just("threshold"), "rules": st.lists(RULES, min_size=1, max_size=3)}, {}),
    lambda inner: fields_of(
        {"kind": st.just("schedule"), "time_zone": st.sampled_from(["UTC", "Europe/Berlin"])},
        {
            "default": fields_of({}, {"floor": st.integers(0, 6), "ceiling": st.integers(0, 6)}),
            "entries": st.lists(ENTRIES, max_size=3),
            "within": inner,
        },
    ),
    max_leaves=3,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(policy=POLICY_DATA, bounds=st.sampled_from([(0, 0), (1, 1), (0, 3), (2, 5)]))
def test_a_policy_that_the_file_may_hold_can_be_built(policy: Any, bounds: tuple[int, int]) -> None:
    data = {"engine": {"command": ["serve"]}, "min": bounds[0], "max": bounds[1], "policy": policy}
    try:
        model = ModelSettings.model_validate(data)
    except ValidationError:
        return
    spec = model.to_spec("chat").policy
    assert build(spec).kind == spec.kind


@pytest.mark.parametrize(
    ("written_as", "capabilities"),
    [("", ("chat", "completions")), (", capabilities: [embeddings]", ("embeddings",))],
    ids=["text unless said otherwise", "embeddings"],
)
def test_a_model_serves_what_is_declared(tmp_path: Path, written_as: str, capabilities: tuple[str, ...]) -> None:
    text = f"models:\n  chat: {{engine: {{command: [serve]}}{written_as}}}\n"
    assert models_of(tmp_path, text)["chat"].capabilities == capabilities


@pytest.mark.parametrize("capabilities", ["[]", "[poetry]", "chat"])
def test_a_capability_that_gateways_do_not_know_is_refused(tmp_path: Path, capabilities: str) -> None:
    with pytest.raises((ConfigError, ConfigErrors), match="capabilities"):
        models_of(tmp_path, f"models:\n  chat: {{engine: {{command: [serve]}}, capabilities: {capabilities}}}\n")
