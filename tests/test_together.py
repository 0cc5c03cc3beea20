"""Cases that share a test fail each by its name, and have the seed that they have alone."""

import pytest
from together import together


def cases_by_test(test):
    """The cases of each test, by its name."""
    (mark,) = test.pytestmark
    return dict(zip(mark.kwargs["ids"], mark.args[1], strict=True))


def cases(names):
    return [pytest.param(name, id=name) for name in names]


def test_each_case_that_fails_is_named(pytestconfig):
    ran = {}

    @together(("name",), cases(f"{row}[{k}]" for row in "ab" for k in range(8)))
    def test_some(name, rng):
        ran[name] = rng.random()
        if "a[1" in name:
            pytest.fail("in words")
        assert int(name[2]) % 2 == 0 or name[0] == "b"

    tests = cases_by_test(test_some)
    assert [*tests] == ["a", "b"]
    with pytest.raises(pytest.fail.Exception) as caught:
        test_some(tests["a"], pytestconfig)
    said = caught.value.msg
    assert said.startswith("4 of 8 cases fail:") and "in words" in said and "assert" in said
    assert [k for k in range(8) if f"a[{k}], seed " in said] == [1, 3, 5, 7]
    test_some(tests["b"], pytestconfig)
    assert len(set(ran.values())) == 16
    before = ran.pop("b[5]")
    test_some({"b[5]": tests["b"]["b[5]"]}, pytestconfig)
    assert ran["b[5]"] == before


def test_two_cases_of_one_name_are_an_error():
    with pytest.raises(AssertionError, match=r"a\[1\] hide each other"):
        together(("name",), cases(["a[1]", "a[2]", "a[1]"]))
