"""Cases and results: the arguments of one call and the arrays that it returns, whatever ran it."""
