"""Tags of attacks: each facet of the taxonomy once, and what can be measured is what the tag says."""

from __future__ import annotations

import pytest

from sidedoor import registry
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.registry import FACETS
from sidedoor.testing.ground import ground
from sidedoor.testing.tags import check_tags

OTHER = {tag: other for tags in FACETS.values() for tag in tags for other in tags if other != tag}
UNMEASURED = {facet: FACETS[facet] for facet in ("access", "medium")}
"""Access is read from the class; what a trigger is in the world, no image shows."""


def checked(name: str, tags: tuple[str, ...], **parameters: object) -> None:
    attack = registry.load("attack", name)(**registry.quick("attack", name) | parameters)
    here = ground()
    backdoor = attack.plan(here.train, here.task, here.build, here.attacker)
    check_tags(name, tags, attack, backdoor, backdoor.doors, here)


@pytest.mark.parametrize(("name", "wrong"), [
    (name, tag) for name in ("badnets", "narcissus", "refool", "ubw_p", "key_watermark")
    for tag in registry.find(name).tags if not any(tag in known for known in UNMEASURED.values())])
def test_a_wrong_tag_is_found(name: str, wrong: str) -> None:
    tags = registry.find(name).tags
    checked(name, tags)
    with pytest.raises(AssertionError, match=f"^{name}: (is tagged {OTHER[wrong]}, but|has the tags)"):
        checked(name, tuple(OTHER[wrong] if tag == wrong else tag for tag in tags))


def test_the_goal_decides_and_not_the_default() -> None:
    with pytest.raises(AssertionError, match="is tagged single_target, but it is multi_target"):
        checked("badnets", registry.find("badnets").tags, goal=MultiTarget())


@pytest.mark.parametrize("facet", sorted(FACETS))
def test_a_facet_has_one_tag(facet: str) -> None:
    tags = registry.find("badnets").tags
    own = [tag for tag in tags if tag in FACETS[facet]]
    assert len(own) == 1
    for given in (tuple(set(tags) - set(own)), (*tags, OTHER[own[0]])):
        with pytest.raises(AssertionError, match=f"of the facet '{facet}'; expected one of"):
            checked("badnets", given)


def test_a_facet_that_means_nothing_has_none() -> None:
    with pytest.raises(AssertionError, match="of the facet 'targets'; expected none"):
        checked("ubw_p", (*registry.find("ubw_p").tags, "single_target"))


@pytest.mark.parametrize(("name", "tags"), [
    ("badnets", "data visible agnostic poison_label fixed digital targeted single_target"),
    ("sig", "data visible agnostic clean_label fixed digital targeted single_target"),
    ("wanet", "training invisible sample_specific fixed digital targeted single_target"),
    ("lira", "training invisible sample_specific optimised digital targeted single_target"),
    ("trojannn", "weights visible agnostic optimised digital targeted single_target"),
    ("ubw_c", "data visible agnostic clean_label fixed digital untargeted"),
    ("key_watermark", "data visible agnostic poison_label fixed digital targeted multi_target"),
    ("physical_copies", "data visible agnostic poison_label fixed physical targeted single_target"),
])
def test_a_class_has_the_tags_of_its_base_unless_it_says_others(name: str, tags: str) -> None:
    assert registry.find(name).tags == tuple(tags.split())


def test_only_attacks_have_tags() -> None:
    assert {entry.kind for entry in registry.entries() if entry.tags} == {"attack"}
    assert all(entry.tags for entry in registry.entries() if entry.kind == "attack")
