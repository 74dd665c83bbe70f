"""Bounds of lab results: each lab that a caution or a derived value reads has them."""

from mimic_qlora.clinical import conditions, content, derived
from mimic_qlora.mimic import lab_bounds


def test_each_lab_that_a_rule_reads_has_bounds():
    cautions = content.load().cautions.values()
    leaves = [leaf for one in cautions for leaf in conditions.leaves(one.when)]
    read = {i for leaf in leaves if isinstance(leaf, conditions.HasLab) for i in leaf.lab.itemid}
    read |= {item for meaning in derived.MEANINGS.values() for item in meaning.items}
    assert len(read) > 20 and read <= lab_bounds.load().keys()


def test_no_bound_of_a_rule_lies_beyond_what_is_possible():
    for one in content.load().cautions.values():
        for leaf in conditions.leaves(one.when):
            if isinstance(leaf, conditions.HasLab):
                bound = leaf.lab.above if leaf.lab.above is not None else leaf.lab.below
                assert all(lab_bounds.is_possible(item, bound) for item in leaf.lab.itemid)
