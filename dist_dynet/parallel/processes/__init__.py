"""Being one of several processes: who they are, what becomes of them, where their time goes."""
