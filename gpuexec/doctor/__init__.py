"""``gpuexec doctor``: is this machine fit for runs, and for a certain pipeline?

=============  ==========================================================================================
``facts``      what is judged: frozen values
``readers``    read facts of this machine; they take a root folder, so that tests can make one
``reading``    reads all facts
``model``      checks, findings and what follows from them
``checks``     the checks: pure functions of the facts
``catalogue``  all of them
``text``       an examination for people
``as_dict``    the same for programs
=============  ==========================================================================================
"""
