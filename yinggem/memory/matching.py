"""The longest stretch that ends at each place of one sequence and stands in others: a suffix automaton."""

from collections.abc import Iterable, Sequence


class Matching:
    """The automaton of a sequence (Blumer et al. 1985): time and memory grow with its length alone, however it repeats.

    A state stands for stretches that end at the same places; `longest` is the longest one's length, and the ends of a
    state's stretches that are shorter than all of them belong to `link`.

    Args:
        sequence: of numbers, 0 and above.
    """

    def __init__(self, sequence: Iterable[int]) -> None:
        self.next: list[dict[int, int]] = [{}]
        self.link, self.longest, self.matched = [-1], [0], [0]
        self.states: list[int] = []  # after each number of the sequence
        last = 0
        for number in sequence:
            last = self._extend(last, number)
            self.states.append(last)

    def add(self, other: Sequence[int]) -> None:
        """Note which stretches of the sequence stand in another one."""
        state, length, matched = 0, 0, self.matched
        for number in other:
            while state and number not in self.next[state]:
                state = self.link[state]
                length = self.longest[state]
            if number in self.next[state]:
                state, length = self.next[state][number], length + 1
                matched[state] = max(matched[state], length)

    def lengths(self) -> list[int]:
        """For each place of the sequence, how long the stretch is that ends there and stands in one that was added."""
        by_length = sorted(range(1, len(self.link)), key=self.longest.__getitem__)
        for state in reversed(by_length):
            if self.matched[state] and (link := self.link[state]) > 0:
                self.matched[link] = self.longest[link]
        for state in by_length:
            if not self.matched[state]:
                self.matched[state] = self.matched[self.link[state]]
        return [self.matched[state] for state in self.states]

    def _extend(self, last: int, number: int) -> int:
        new, state = self._state({}, self.longest[last] + 1), last
        while state >= 0 and number not in self.next[state]:
            self.next[state][number] = new
            state = self.link[state]
        self.link[new] = self._end(state, number) if state >= 0 else 0
        return new

    def _end(self, state: int, number: int) -> int:
        """The state whose longest stretch is that of `state` and `number` after it; made where there is none."""
        found = self.next[state][number]
        if self.longest[state] + 1 == self.longest[found]:
            return found
        twin = self._state(dict(self.next[found]), self.longest[state] + 1)
        self.link[twin], self.link[found] = self.link[found], twin
        while state >= 0 and self.next[state].get(number) == found:
            self.next[state][number] = twin
            state = self.link[state]
        return twin

    def _state(self, following: dict[int, int], longest: int) -> int:
        self.next.append(following)
        self.link.append(0)
        self.longest.append(longest)
        self.matched.append(0)
        return len(self.link) - 1
