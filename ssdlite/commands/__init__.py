"""What each verb of the command line does, without the words on the screen being in anybody's way."""
