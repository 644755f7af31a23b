"""Selection: limits, order and what is not known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbench.errors import UnknownNameError
from tlbench.selection import Selection

FIGURES = st.one_of(st.none(), st.integers(1, 5))
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.text("abc", min_size=1, max_size=3),
            "modality": st.sampled_from(["image", "text"]),
            "parameters": FIGURES,
            "macs": FIGURES,
            "accuracy": st.one_of(st.none(), st.sampled_from([0.2, 0.5, 0.8])),
        }
    )
)
SELECTIONS = st.builds(
    Selection,
    max_params=FIGURES,
    max_macs=FIGURES,
    min_accuracy=st.one_of(st.none(), st.sampled_from([0.1, 0.5, 0.9])),
    sort=st.sampled_from([None, "accuracy", "parameters", "macs", "name"]),
)


def fits(record: dict[str, Any], selection: Selection, unknown: bool) -> bool:
    def kept(name: str, limit: float | None, sign: int) -> bool:
        if limit is None:
            return True
        return unknown if record[name] is None else bool(sign * record[name] <= sign * limit)

    return (
        kept("parameters", selection.max_params, 1)
        and kept("macs", selection.max_macs, 1)
        and kept("accuracy", selection.min_accuracy, -1)
    )


@given(RECORDS, SELECTIONS)
def test_what_is_known_to_fit_is_kept_and_what_may_fit_is_counted(records: Any, selection: Selection) -> None:
    kept = selection.of(records)
    assert sorted(map(id, kept)) == sorted(id(record) for record in records if fits(record, selection, unknown=False))
    doubtful = sum(fits(record, selection, unknown=True) for record in records) - len(kept)
    said = selection.doubts(records)
    assert said.startswith(f"{doubtful} left out") if doubtful else said == ""


@given(RECORDS, st.sampled_from(["accuracy", "parameters", "macs", "name"]), st.integers(1, 5))
def test_order_is_stable_with_the_unknown_last(records: Any, sort: str, limit: int) -> None:
    ordered = Selection(sort=sort).of(records)
    figures = [record[sort] for record in ordered]
    known = [figure for figure in figures if figure is not None]
    assert figures == sorted(known, reverse=sort == "accuracy") + [None] * (len(figures) - len(known))
    for value in set(figures):
        equal = [id(record) for record in records if record[sort] == value]
        assert [id(record) for record in ordered if record[sort] == value] == equal
    assert Selection(sort=sort, limit=limit).of(records) == ordered[:limit]


def test_without_wishes_all_is_as_it_was() -> None:
    records = [{"name": "b", "modality": "image"}, {"name": "a", "modality": "text"}]
    assert Selection().of(records) == records
    assert Selection(modality="text").of(records) == records[1:]
    assert Selection().doubts(records) == ""


def test_a_modality_that_none_has_is_an_error_that_names_one() -> None:
    with pytest.raises(UnknownNameError, match=r"^no modality 'images': did you mean 'image'\?"):
        Selection(modality="images").of([{"name": "a", "modality": "image"}])


def test_the_figures_that_are_unknown_are_named_once() -> None:
    unknown = {"modality": "image", "parameters": None, "macs": None, "accuracy": None}
    records = [unknown, {**unknown, "macs": 3}, {**unknown, "macs": 5}]
    selection = Selection(max_macs=4, min_accuracy=0.5)
    assert selection.doubts(records) == "2 left out for unknown macs or accuracy"
