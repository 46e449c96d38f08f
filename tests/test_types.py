"""Records: pytrees whose class is part of their structure."""

import jax
import jax.numpy as jnp
import pytest

from memoa_jax.types import record, static


@record
class Left:
    x: object
    size: int = static(default=2)


@record
class Right:
    x: object
    size: int = static(default=2)


def test_records_of_two_classes_are_two_structures():
    left, right = jax.tree.structure(Left(1.0)), jax.tree.structure(Right(1.0))
    assert left != right
    assert left == jax.tree.structure(Left(2.0))
    assert left != jax.tree.structure(Left(1.0, size=3))


def test_jit_never_takes_one_record_for_another():
    """A cache that went by hashes alone would mix some of these up."""

    def make(number):
        return record(type(f"Made{number}", (), {"__annotations__": {"x": object}, "own": number}))

    @jax.jit
    def run(one):
        return one.x + type(one).own

    classes = [make(number) for number in range(60)]
    assert [int(run(cls(0))) for cls in classes] == list(range(60))


def test_static_fields_are_structure_and_the_rest_leaves_with_their_names():
    one = Left(jnp.ones(2), size=5)
    paths, _ = jax.tree_util.tree_flatten_with_path(one)
    assert [jax.tree_util.keystr(path) for path, _ in paths] == [".x"]
    doubled = jax.tree.map(lambda leaf: 2 * leaf, one)
    assert type(doubled) is Left
    assert doubled.size == 5
    assert doubled.x.tolist() == [2.0, 2.0]
    with pytest.raises(AttributeError):
        one.size = 3
