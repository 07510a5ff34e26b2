"""The officer's page: what is asked of this hospital, and the two buttons that decide on it.

Here: a desk that puts a job into words, a page over it that works without JavaScript, and who may
sign in. Not here: the rules of approval, which are ``fl_client.jobs``', and who has which right,
which is ``identity.roles``'.
"""
