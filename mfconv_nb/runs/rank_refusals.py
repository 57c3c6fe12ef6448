"""Errors that say which ranks, steps or stages are missing from the folders of the ranks. Every function returns one and raises nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mfconv_nb.core.errors import InputError, quoted
from mfconv_nb.core.report import how_many
from mfconv_nb.runs.message_text import groups_text, names_text, numbers_text
from mfconv_nb.runs.rank_files import RankFile, Series
from mfconv_nb.runs.rank_listing import RankListing, groups_without
from mfconv_nb.runs.rank_runs import RANKS_SHOWN, Candidates
from mfconv_nb.runs.rank_tensors import Groups
from mfconv_nb.runs.run import Step


def extra_ranks_error(listing: RankListing, extra: Sequence[int]) -> InputError:
    """There are more ranks than the strategy files count: MFC111 where whole stages are missing from them, else MFC114."""
    last = listing.stages[-1]
    found = f"{how_many(len(listing.folders), 'rank folder')}, up to rank_{max(extra)}"
    ranks = f"ranks 0 to {last.ranks.stop - 1}" if last.ranks.stop > 1 else "rank 0"
    stages = f"{how_many(len(listing.stages), 'stage')}, of {how_many(last.devices, 'device')} in the last"
    expected = f"{ranks}: the strategy speaks of {stages}"
    code = "MFC111" if (max(extra) + 1) % last.devices == 0 else "MFC114"
    hint = "The strategy file of a pipeline stage is missing, or these are the strategy files of another run: give the right ones."
    return InputError(code, listing.home, found=found, expected=expected, hint=hint)


def split_names_error(listing: RankListing, step: Step | None, by_series: Mapping[Series, Mapping[int, Sequence[RankFile]]]) -> InputError:
    """MFC112: the files would be enough together, but their names say that they belong to several checkpoints."""
    firsts = [next(iter(files.values()))[0].path.name for files in by_series.values()]
    found = f"files of other names on each rank, such as {names_text(firsts)}"
    expected = f"files of one prefix and ending{f' at step {step}' if step is not None else ''} on all ranks"
    hint = "Fetch the rest of one of them; files of one run that were renamed need one name again."
    return InputError("MFC112", listing.home, found=found, expected=expected, hint=hint)


def missing_step_error(listing: RankListing, step: Step | None, absent: Groups) -> InputError:
    """MFC112 where ranks that are there lack the step, MFC111 where no rank that could have it is there."""
    with_files = {f.rank for f in listing.files}
    behind = sorted({rank for group in absent for rank in group if rank in with_files})
    gone = [group for group in absent if not with_files.intersection(group)]
    if gone or not behind:
        return missing_ranks_error(listing, step, gone or absent)
    steps = listing.steps
    listed = "; ".join(f"rank {r} has {', '.join(str(s) for s in steps[r][-4:]) or 'no step'}" for r in behind[:6])
    if len(behind) > 6:
        ahead = [rank for rank in steps if step in steps[rank]]
        listed = f"only rank{'s' * (len(ahead) > 1)} {numbers_text(ahead)} of {how_many(len(with_files), 'rank')}"
        listed += f": {len(with_files) - len(ahead):,} do not have it"
    hint = "Choose a step that all ranks have, or fetch the rest of this one."
    return InputError("MFC112", listing.home, found=listed, expected=f"step {step} on {groups_text(absent)}", hint=hint)


def missing_ranks_error(listing: RankListing, step: Step | None, absent: Groups) -> InputError:
    """MFC111: no rank of these groups is there."""
    found = f"no file of {groups_text(absent)}"
    expected = "one copy of every slice" + (f" at step {step}" if step is not None else "")
    hint = "Fetch the missing folders" + ("." if listing.stages else ", or give the strategy files: then copies may be missing.")
    return InputError("MFC111", listing.home, found=found, expected=expected, hint=hint)


def no_common_step_error(listing: RankListing, groups: Groups) -> InputError:
    """MFC112 where no step is on all ranks, MFC111 where ranks have no file at all."""
    gone = groups_without(groups, {f.rank for f in listing.files})
    if gone:
        return missing_ranks_error(listing, None, gone)
    listed = "; ".join(f"rank {rank}: {', '.join(str(s) for s in had[-4:]) or 'none'}" for rank, had in list(listing.steps.items())[:8])
    hint = "Wait until the run has written the rest, or fetch the files of one step from all ranks."
    return InputError("MFC112", listing.home, found=listed, expected="a step that all needed ranks have", hint=hint)


def undecided_runs_error(listing: RankListing, step: Step | None, candidates: Candidates, others: Sequence[Step]) -> InputError:
    """MFC112: several runs wrote files of this step, and nothing tells which files belong together.

    Args:
        others: steps of which every rank has one file.
    """
    by_count = sorted(candidates.items(), key=lambda item: (-len(item[1]), item[0]))
    shown = [by_count[0], by_count[-1]] if len(by_count) > 1 else by_count
    said = "; ".join(f"rank {rank} has {', '.join(quoted(f.path.name) for f in reversed(files[:RANKS_SHOWN]))}" for rank, files in shown)
    found = f"files of several runs{f' at step {step}' if step is not None else ''}: {said}"
    expected = "copies, counters or a meta.json that tell which are of one run: MindSpore counts runs (_1) in each rank's folder apart"
    hint = "Move the files of the other runs out of the folders of the ranks"
    hint += f", or take a step of which every rank has one file: --step {others[0]} (step= in Python)." if others else "."
    return InputError("MFC112", listing.home, found=found, expected=expected, hint=hint)
