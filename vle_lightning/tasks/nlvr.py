"""True or false of one picture: NLVR (Suhr et al., ACL 2017) and VSR (arXiv 2205.00363)."""

from __future__ import annotations

from collections.abc import Mapping

from vle_lightning.tasks.statements import StatementTask


class NLVRTask(StatementTask):
    """Is the sentence true of the picture? Where a sentence comes with several, consistency asks for all of them."""

    def identifier(self, row: Mapping[str, object]) -> str:
        """Return the drawing's file name, by which NLVR's scorer knows a statement: image id, then statement id."""
        image = str(row["id"]).removesuffix(f"/{row['statement_id']}")
        return f"{image.rpartition('/')[2]}.png"


Task = NLVRTask
