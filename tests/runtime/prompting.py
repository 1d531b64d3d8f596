"""Short words for what the tests of prompts ask most often."""

from __future__ import annotations

from periscope_runtime.asked import Asked
from periscope_runtime.prompt import Content, Prompt, PromptEncoder


def text_prompt(prompts: PromptEncoder, text: str, role: str | None = None) -> Prompt:
    prompt = prompts.embedded(Content(("text",), text), Asked(role))
    assert prompt is not None
    return prompt


def page_prompt(prompts: PromptEncoder, visual_tokens: int, role: str | None = None) -> Prompt:
    prompt = prompts.embedded(Content(("image",), None, [visual_tokens]), Asked(role))
    assert prompt is not None
    return prompt
