"""Many runs: planning, launching, status, collecting and comparing."""
