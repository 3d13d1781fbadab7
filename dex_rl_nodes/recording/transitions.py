"""Transitions out of the records of the ticks."""

from dex_rl_nodes.records import CoreAction, ExecutedAction, Origin, PolicyStep, StepResult, Transition

_PATIENCE = 10  # ticks a missing part is waited for


class TransitionAssembler:
    """Puts a transition together once all its parts are there, in whatever order they arrive.

    Transition n needs PolicyStep n and n + 1, CoreAction n, ExecutedAction n and StepResult n + 1. Transitions come out in
    order and numbered without gaps; one whose parts do not all arrive is dropped and counted.

    Args:
        next_sequence: number of the next transition of the run.
    """

    def __init__(self, next_sequence: int = 1):
        self.next_sequence = next_sequence
        self.dropped = 0
        self._episode = -1
        self._clear()

    def _clear(self) -> None:
        self._steps: dict[int, PolicyStep] = {}
        self._cores: dict[int, CoreAction] = {}
        self._executed: dict[int, ExecutedAction] = {}
        self._results: dict[int, StepResult] = {}
        self._next = 0
        self._ended = False

    def add(self, record: PolicyStep | CoreAction | ExecutedAction | StepResult) -> list[Transition]:
        """Take a record; the transitions it completes.

        What belongs to an earlier episode is ignored; the first record of a new one forgets the old one.
        """
        if record.episode < self._episode:
            return []
        if record.episode > self._episode:
            self.dropped += max(len(self._executed) - 1, 0) if not self._ended else 0
            self._clear()
            self._episode = record.episode
        table = {
            PolicyStep: self._steps,
            CoreAction: self._cores,
            ExecutedAction: self._executed,
            StepResult: self._results,
        }[type(record)]
        table[record.step] = record
        return self._complete()

    def _complete(self) -> list[Transition]:
        done = []
        while not self._ended:
            n = self._next
            parts = (self._steps.get(n), self._cores.get(n), self._executed.get(n))
            after = (self._results.get(n + 1), self._steps.get(n + 1))
            if all(part is not None for part in parts + after):
                done.append(self._transition(*parts, *after))
                self._ended = after[0].terminated or after[0].truncated
            elif n + _PATIENCE < max(self._steps, default=0):
                self.dropped += 1
            else:
                break
            for part in (self._steps, self._cores, self._executed, self._results):
                part.pop(n, None)
            self._next += 1
        return done

    def _transition(
        self, step: PolicyStep, core: CoreAction, executed: ExecutedAction, result: StepResult, after: PolicyStep
    ) -> Transition:
        sequence, self.next_sequence = self.next_sequence, self.next_sequence + 1
        return Transition(
            stamp=step.stamp,
            sequence=sequence,
            episode=step.episode,
            step=step.step,
            encoder=step.encoder,
            features=step.features,
            state=step.state,
            hand_history=step.hand_history,
            context=step.context,
            base_core=step.base_core,
            residual=core.residual,
            action=executed.action,
            reward=result.reward,
            mask=0.0 if result.terminated else 1.0,
            truncated=result.truncated,
            success=result.success,
            source=Origin.INTERVENTION if executed.source else Origin.POLICY,
            next_features=after.features,
            next_state=after.state,
            next_hand_history=after.hand_history,
            next_context=after.context,
            next_base_core=after.base_core,
        )
