"""Engine profiles: how fast and how large one model on one kind of hardware is, where each number comes from, and
within which loads it was measured.

``profile`` holds the types, ``physics`` what follows from data sheets alone, ``document`` the files. The project's own
profiles lie beside this module, one YAML file each; a user's file is read in the same way.
"""
