import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax.game import (
    FeatureMoments,
    GameCost,
    discounts,
    inverse_population,
    standard_game,
)


@pytest.mark.parametrize("field", ["tracking", "consensus", "ensemble", "effort", "forgetting"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_cost_that_is_not_finite_is_refused(field, value):
    with pytest.raises(ValueError, match=rf"GameCost\.{field} = .*finite"):
        GameCost(**{field: value})


@pytest.mark.parametrize("effort", [0.0, -1, -0.5])
def test_effort_must_be_positive(effort):
    with pytest.raises(ValueError, match=r"GameCost\.effort = .*> 0"):
        GameCost(effort=effort)


def test_a_cost_is_a_tree_and_may_say_how_to_map_over_it():
    cost = GameCost(effort=jnp.arange(1.0, 4.0))
    axes = GameCost(None, None, None, 0, None)
    efforts = jax.vmap(lambda c: c.effort * c.tracking, in_axes=(axes,))(cost)
    np.testing.assert_array_equal(efforts, [1, 2, 3])
    assert jax.tree.map(lambda leaf: 2.0, GameCost()).effort == 2.0


def test_discounts_are_floats():
    assert discounts(0.0, 3).dtype == jnp.float64
    assert discounts(jnp.float32(0.5), 3).dtype == jnp.float32
    assert discounts(0, 3, jnp.float32).dtype == jnp.float32
    np.testing.assert_allclose(discounts(0.5, 3), np.exp([-1, -0.5, 0]), rtol=1e-15)


def test_moments_are_those_of_the_samples():
    z = np.random.default_rng(0).normal(size=(4, 30, 2, 3))
    moments = FeatureMoments.from_samples(z)
    np.testing.assert_allclose(moments.mean, z.mean(1), rtol=1e-13)
    t, a, b, k, l_ = 2, 0, 1, 2, 1
    product = (z[t, :, a, k] * z[t, :, b, l_]).mean()
    np.testing.assert_allclose(moments.second[t, a, b, k, l_], product, rtol=1e-13)
    with pytest.raises(ValueError, match=r"features has shape \(4, 30, 2\)"):
        FeatureMoments.from_samples(z[..., 0])


def test_gram_and_covariance_are_expectations():
    rng = np.random.default_rng(1)
    z, weight = rng.normal(size=(50, 2, 3)), rng.normal(size=(2, 2))
    step = jax.tree.map(lambda leaf: leaf[0], FeatureMoments.from_samples(z[None]))
    gram = np.mean([x.T @ weight @ x for x in z], axis=0)
    np.testing.assert_allclose(step.gram(weight), gram, rtol=1e-12)
    noise = gram - z.mean(0).T @ weight @ z.mean(0)
    np.testing.assert_allclose(step.covariance(weight), noise, rtol=1e-12)


def test_shapes_that_do_not_fit_are_named():
    mean, second, targets = np.ones((3, 2, 4)), np.ones((3, 2, 2, 4, 4)), np.ones((3, 2))
    good = FeatureMoments(mean, second)
    with pytest.raises(ValueError, match=r"targets has shape \(3, 1\).*\(3, 2\)"):
        standard_game(GameCost(), good, targets[:, :1])
    with pytest.raises(ValueError, match=r"moments\.second has shape .*\(3, 2, 2, 4, 4\)"):
        standard_game(GameCost(), FeatureMoments(mean, second[:2]), targets)
    with pytest.raises(ValueError, match=r"moments\.mean has shape \(2, 4\).*\[T, d, p\]"):
        standard_game(GameCost(), FeatureMoments(mean[0], second), targets)
    with pytest.raises(ValueError, match=r"moments\.mean has shape \(0, 2, 4\).*empty"):
        standard_game(GameCost(), FeatureMoments(mean[:0], second[:0]), targets[:0])
    with pytest.raises(ValueError, match=r"GameCost\.consensus has shape \(3,\).*scalar"):
        standard_game(GameCost(consensus=np.ones(3)), good, targets)
    with pytest.raises(ValueError, match=r"GameCost\.effort = 0"):
        standard_game(GameCost(effort=0), good, targets)
    several = FeatureMoments(mean[None], second[None])
    with pytest.raises(ValueError, match=r"GameCost\.effort has shape \(2,\).*\[K\] = \(1,\)"):
        standard_game(GameCost(effort=np.ones(2)), several, targets, per_type=True)


def test_one_dtype_decided_by_the_arrays_not_by_the_cost():
    moments = FeatureMoments(np.ones((3, 1, 2), np.float32), np.ones((3, 1, 1, 2, 2), np.float32))
    game = standard_game(GameCost(consensus=1), moments, np.ones((3, 1), np.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(game)} == {jnp.dtype("float32")}
    game = standard_game(GameCost(), moments, np.ones((3, 1)))
    assert {leaf.dtype for leaf in jax.tree.leaves(game)} == {jnp.dtype("float64")}
    game = standard_game(GameCost(), moments, np.ones((3, 1), int))
    assert game[2].dtype == jnp.float32


@pytest.mark.parametrize("population", [0, -3, 0.5, np.int64(0), float("nan")])
def test_a_population_below_one_is_refused(population):
    with pytest.raises(ValueError, match=r"population = .*>= 1, or None"):
        inverse_population(population, jnp.float64)


def test_population_is_one_number():
    with pytest.raises(ValueError, match=r"population has shape \(2,\)"):
        inverse_population(np.array([1, 2]), jnp.float64)
    assert inverse_population(None, jnp.float32) == 0
    assert inverse_population(np.int32(8), jnp.float32).dtype == jnp.float32
    assert jax.jit(lambda n: inverse_population(n, jnp.float64))(8) == 0.125
