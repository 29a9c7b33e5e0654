"""Recipes: published networks with their training setup, ready to run (`fastcnn train NAME`), each in one file.

    recipe = recipes.get("lenet")
    model = recipe.model()
    trainer = recipe.trainer(model)
    data = recipe.datasets("digits")                  # train, val and test in the network's geometry
    seen = (*recipe.augmentation, recipe.transform(data.train))
    fastcnn.fit(trainer, data.train, data.val, epochs=recipe.setup().epochs, transform=seen)

or all of it, with a run folder, in one call: `recipes.train("lenet")`.

To add one: write a file with a subclass of Recipe, and list it in _recipes.
"""

from __future__ import annotations

import difflib
from functools import cache

from fastcnn.recipes.base import Option, Recipe, RecipeData, Setup
from fastcnn.recipes.run import LoadedRun, Result, evaluate, load, resume, train


@cache
def _recipes() -> dict[str, Recipe]:
    """Every recipe under its name, in the order in which they are listed."""
    from fastcnn.recipes import batchnorm_cifar10, deep_cifar10, filterbank, lenet, simple_cifar10, twoconv, wide_256

    recipes = (
        lenet.LeNet(),
        filterbank.FilterBank(),
        twoconv.TwoConvMnist(),
        twoconv.TwoConvCifar10(),
        simple_cifar10.SimpleCifar10(),
        batchnorm_cifar10.BatchNormCifar10(),
        deep_cifar10.DeepCifar10(),
        wide_256.Wide256(),
    )
    return {recipe.name: recipe for recipe in recipes}


def names() -> list[str]:
    """The recipes' names, without their aliases."""
    return list(_recipes())


def get(name: str) -> Recipe:
    """The recipe of that name or alias; ValueError listing all names, and the one most like it, if there is none."""
    by_name = dict(_recipes())
    for recipe in _recipes().values():
        by_name |= {alias: recipe.preferring(data) for alias, data in recipe.aliases.items()}
    if name not in by_name:
        close = difflib.get_close_matches(name, by_name, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"no recipe {name!r}: {hint}there are {', '.join(names())}")
    return by_name[name]


__all__ = ["LoadedRun", "Option", "Recipe", "RecipeData", "Result", "Setup", "evaluate", "get", "load", "names", "resume", "train"]
