from hypothesis import given
from hypothesis import strategies as st

from workers.forge.data.packing import Packer, padded
from workers.forge.data.tokenizing import pieces

RUNS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=40), max_size=20)


class TestPacker:
    @given(runs=RUNS, length=st.integers(1, 50), eager=st.booleans())
    def test_no_token_is_lost_or_moved(self, runs, length, eager) -> None:
        packer, rows = Packer(length), []
        for owner, run in enumerate(runs):
            packer.add(owner, run)
            while eager and (row := packer.row()) is not None:
                rows.append(row)
        while (row := packer.row()) is not None:
            rows.append(row)
        used, rest = packer.used, packer.rest()

        tokens = [token for run in runs for token in run]
        assert [int(token) for row in rows for token in row] + [token for _, run in rest for token in run] == tokens
        assert [len(row) for row in rows] == [length] * (len(tokens) // length)
        assert used | {owner for owner, _ in rest} == {owner for owner, run in enumerate(runs) if run}

    def test_owner_of_a_cut_run_is_used_and_left(self) -> None:
        packer = Packer(4)
        packer.add(7, [1, 2, 3])
        packer.add(8, [4, 5])
        row = packer.row()
        assert row is not None
        assert (row.tolist(), row.dtype.name) == ([1, 2, 3, 4], "int32")
        assert (packer.used, packer.waiting_tokens, packer.rest(), packer.waiting_tokens) == ({7, 8}, 1, [(8, [5])], 0)

    def test_short_run_is_padded_on_the_right(self) -> None:
        assert padded([5, 6], 4, pad=9).tolist() == [5, 6, 9, 9]


class TestPieces:
    @given(text=st.text(alphabet="ab \n", max_size=600), tokens=st.integers(1, 40))
    def test_no_character_is_lost_and_no_piece_is_a_crumb(self, text, tokens) -> None:
        parts = pieces(text, tokens=tokens)
        assert "".join(parts) == text
        assert all(2 * tokens < len(part) <= 6 * tokens for part in parts[:-1])
        assert len(parts) == 1 or 2 * tokens <= len(parts[-1]) <= 6 * tokens

    def test_pieces_end_behind_white_space(self) -> None:
        parts = pieces("abcdefg " * 100, tokens=16)
        assert len(parts) > 10
        assert all(part.endswith(" ") for part in parts)
