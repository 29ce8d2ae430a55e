import numpy as np

from repa.report.prompts import Drawing, drawings_html


def test_texts_are_shown_with_their_pictures_and_nothing_in_them_is_markup() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    found = [Drawing("<b>new</b>", image, image, held_out=True), Drawing("own", image)]
    page = drawings_html([*found, Drawing("old", image, image)])
    assert "<b>" not in page
    places = ["trained with", ">old<", "Held-out", ">&lt;b&gt;new", "Other texts", ">own<"]
    assert sorted(places, key=page.index) == places
    assert page.count("<img") == 5
    assert page.count("real image of: ") == 2
    assert 'width="18" height="12"' in page


def test_without_drawings_there_is_nothing() -> None:
    assert drawings_html([]) == ""
