"""Pages that were sorted by hand; the classification prompts learn from them."""

from __future__ import annotations

from promptflow.core import tool

Example = dict[str, str]

EXAMPLES: tuple[Example, ...] = (
    {
        "url": "https://apps.garden.example/get/seedling-diary",
        "text_content": "Seedling Diary reminds you to water and keeps a photograph of each week. "
        "Free, for phones, version 1.4.",
        "category": "App",
        "evidence": "Both",
    },
    {
        "url": "https://repository.hillcollege.example/item/5520",
        "text_content": "A paper measures how fast lichens cover new slate roofs, with methods, "
        "tables and 48 references.",
        "category": "Academic",
        "evidence": "Text content",
    },
    {
        "url": "https://clips.example/channel/bread-at-dawn",
        "text_content": "A baker films one loaf a day before sunrise; 730 films so far.",
        "category": "Channel",
        "evidence": "Both",
    },
    {
        "url": "https://moonlight-pictures.example/movies/last-tram",
        "text_content": "A tram driver refuses to end his last shift. 101 minutes, with the cast "
        "and two stills.",
        "category": "Movie",
        "evidence": "Both",
    },
    {
        "url": "https://someone.example/about",
        "text_content": "Milo Tennant repairs church clocks, lives on an island and answers "
        "letters.",
        "category": "Profile",
        "evidence": "Text content",
    },
    {
        "url": "https://shop.oldlamps.example/brass/desk-lamp",
        "text_content": "A brass lamp for the desk at 120.00, with plug and bulb, sent in three "
        "days.",
        "category": "Shop",
        "evidence": "Both",
    },
    {
        "url": "https://weather.example/today",
        "text_content": "Rain until four, then brighter. Wind from the west.",
        "category": "None",
        "evidence": "Both",
    },
)


@tool
def prepare_examples() -> list[Example]:
    """One example of each category, in the order in which the prompt shows them."""
    return list(EXAMPLES)
