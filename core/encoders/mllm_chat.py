"""The chats that vision-language models read.

A chat has one message: the image, a task (what to do with the words), and the words. A model that was trained
for a single task, such as the pocket reader, may leave the task out in its chat template.
"""

from collections.abc import Iterable
from typing import Any

# The task that precedes the words when states are encoded.
STATES_TASK = "What should be changed in this picture to fulfil this wish?"

# LLaVA-1.5's chat template, for older folders without one.
LLAVA_TEMPLATE = (
    "{% for message in messages %}USER: <image>\n"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def chat(words: str, task: str, image: bool = True) -> list[dict[str, Any]]:
    """Returns the chat in transformers' format."""
    texts = [f"{task}\n", words] if task else [words]
    content = [*([{"type": "image"}] if image else []), *({"type": "text", "text": text} for text in texts)]
    return [{"role": "user", "content": content}]


def without_marks(words: str, marks: Iterable[str], lines: bool = False) -> str:
    """Removes the marks of a chat from the user's words, so that they are only data.

    Args:
        words: the words.
        marks: what to remove besides ``<image>``.
        lines: keeps lines and spaces instead of writing all on one line.
    """
    # Longer marks first: one may contain another.
    for mark in sorted({*marks, "<image>"}, key=lambda mark: (-len(mark), mark)):
        if mark.strip():
            words = words.replace(mark, " ")
    return words.strip() if lines else " ".join(words.split())
