import numpy as np

from repa.report.prompts import Drawing, drawings_html


def test_texts_are_shown_with_their_pictures_and_nothing_in_them_is_markup() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    page = drawings_html(
        [Drawing("<b>new</b>", image, held_out=True), Drawing("old", image, image)]
    )
    assert "<b>" not in page
    assert page.index("trained with") < page.index(">old<") < page.index("Held-out")
    assert page.count("<img") == 3
    assert page.count("real image of: ") == 1
    assert 'width="18" height="12"' in page


def test_without_drawings_there_is_nothing() -> None:
    assert drawings_html([]) == ""
