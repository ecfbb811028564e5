"""Broken packages: each must be refused by its own name, or be seen in the numbers."""

from checks import examine, refusal
from decoders import check_explicit, check_state
from mutations import MUTATIONS, SILENT, Broken
from programs import Weights

from load import opinion


def test_mutations(folder):
    for source in {source for source, _, _ in MUTATIONS.values()}:
        assert (
            refusal(lambda: examine(Broken(folder / f"{source}.mlpackage", folder / "broken.mlpackage").save())) is None
        )
    missed = []
    for name, (source, message, function) in MUTATIONS.items():
        broken = Broken(folder / f"{source}.mlpackage", folder / "broken.mlpackage")
        function(broken)
        said = refusal(lambda: examine(broken.save()))
        ok = said is not None and message in said
        missed += [] if ok else [name]
        print("refused" if ok else "MISSED", name, "|", said, "| coremltools:", opinion(broken.path))
    assert not missed, missed


def test_silent_mutations(folder):
    """Broken packages that are well formed: only the numbers differ."""
    for name, (source, encoding, function) in SILENT.items():
        broken = Broken(folder / f"{source}.mlpackage", folder / "broken.mlpackage")
        function(broken)
        examine(broken.save())
        check = check_state if source.startswith("state") else check_explicit
        try:
            check(broken.path, Weights(encoding))
        except AssertionError as error:
            print("seen", name, "|", error, "| coremltools:", opinion(broken.path))
        else:
            raise AssertionError(f"{name} is not seen")
