"""Programs written for DyNet that tests write and run."""

from processes import run_python


def run_program(path, *arguments, **environment):
    """What `python -m dist_dynet.compat` with these arguments prints."""
    result = run_python("-m", "dist_dynet.compat", str(path), *arguments, **environment)
    assert result.returncode == 0, (
        f"exit status {result.returncode}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    )
    return result


def program(tmp_path, text, name="program.py"):
    path = tmp_path / name
    path.write_text(text)
    return path
