"""The mobility laboratory: schedules of moves, the stages they are played on, what came of them."""
