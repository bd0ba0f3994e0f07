"""Host floor: float64 and 60-digit numbers, symbolic tensors, the compiler, the plan. No torch here."""
