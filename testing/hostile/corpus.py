"""The hostile corpus: every case of docs/safety.md in every container to which it applies.

Cases 1 to 46 have the numbers of that page; 0 is a valid file. Case 38 (an LSTM with a missing tensor) is in
test_find_lstms.py, and case 40 (a file that changes while it is read) in test_hostile.py.
"""

from testing.hostile import archives, pickles, plain_files, programs, tensors
from testing.hostile.mutation import cases

CASES = [case for part in (pickles, tensors, archives, plain_files, programs) for case in cases(part.TABLE)]
"""All cases; their names are unique."""
