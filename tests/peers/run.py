"""A contender in a process of its own: `python -m tests.peers.run NAME TASKS`, tasks as JSON, one after the other."""

import sys

from tests.peers.task import Task, from_json


def run(name: str, task: Task) -> None:
    """Label the photographs of one task. Imports only what this contender needs."""
    if name == "ray":
        from tests.peers import ray_recipe

        ray_recipe.run(task)
    elif name == "daft":
        from tests.peers import daft_recipe

        daft_recipe.run(task)
    elif name == "dataloader":
        from tests.peers import loader_recipe

        loader_recipe.run(task)
    else:
        from tests.peers import our_worker

        {"daft-worker": our_worker.run_daft, "multiprocessing": our_worker.run_pool}[name](task)


if __name__ == "__main__":
    for each in from_json(sys.argv[2]):
        run(sys.argv[1], each)
