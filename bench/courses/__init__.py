"""Coursework as students write it: the yardstick of the tests of fastcnn.compat, and what `python -m bench coursework` compares with. Written here from what
the courses ask for; the modules of each lie and are named as in the course."""
