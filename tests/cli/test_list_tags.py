"""Attacks by their tags."""

from __future__ import annotations

import json

from command_line import Cli

from sidedoor import registry


def test_a_list_may_be_of_attacks_that_have_all_of_some_tags(cli: Cli) -> None:
    found = json.loads(cli("list", "attacks", "--tag", "clean_label", "--tag", "invisible", "--json").out)
    assert {"ctrl", "narcissus"} <= {entry["name"] for entry in found}
    assert all({"clean_label", "invisible"} <= set(entry["tags"]) for entry in found)
    one = json.loads(cli("list", "--tag", "clean_label", "--json").out)
    assert len(one) > len(found)
    assert {entry["kind"] for entry in one} == {"attack"}
    lines = cli("list", "--tag", "clean_label").out.splitlines()
    assert [line.split()[1] for line in lines] == [entry["name"] for entry in one]


def test_an_unknown_tag_is_answered_with_those_that_there_are(cli: Cli) -> None:
    said = cli("list", "attacks", "--tag", "stealthy")
    assert (said.code, said.out) == (4, "")
    assert "unknown tag 'stealthy'; expected one of" in said.err
    assert all(tag in said.err for tags in registry.FACETS.values() for tag in tags)


def test_the_page_of_an_attack_has_its_tags(cli: Cli) -> None:
    assert "Tags: data, visible, agnostic, poison_label, fixed, digital, targeted, single_target." \
        in " ".join(cli("show", "badnets").out.split())
    assert json.loads(cli("show", "wanet", "--json").out)["tags"] == list(registry.find("wanet").tags)
    assert "Tags" not in cli("show", "fine_pruning").out
